package org.mobilevideogpt.core

import java.io.Closeable

/** Floats with a shape, in C order. Most have two axes: rows and width. */
class FloatTensor(val data: FloatArray, val shape: IntArray) {
    init {
        require(shape.fold(1L) { size, axis -> size * axis } == data.size.toLong()) {
            "${data.size} floats are no tensor of shape ${shape.toList()}"
        }
    }

    /** The size of the first axis. */
    val rows: Int get() = shape[0]

    /** The floats of one row: all that the other axes hold. */
    val width: Int get() = if (rows == 0) 0 else data.size / rows
}

/**
 * What runs the seven graphs of a bundle: the session, the benchmark and the self-test know this interface and no runtime.
 *
 * The decoder's cache is kept inside. Tokens beyond the position of a call are never attended to, so starting again at an earlier
 * position needs no reset. One thread at a time.
 */
interface GraphBackend : Closeable {
    val manifest: Manifest

    /** Tokens that the cache holds. */
    val maxContext: Int

    /** As the benchmark reports it. */
    val name: String

    /** Versions of what runs the graphs. */
    fun versions(): Map<String, String>

    /** Runs one graph but `token_embedding` and `decoder`; shapes as the manifest has them. */
    fun run(graph: String, input: FloatTensor): FloatTensor

    /** Embeddings of ids: [N] -> [N, D]. */
    fun embed(ids: IntArray): FloatTensor

    /** Appends embeddings [T, D] to the cache at [position], in as many calls as it takes; the logits [V] of the last one. */
    fun decode(embeds: FloatTensor, position: Int): FloatArray

    /** Loads those that are not loaded yet; without it each is loaded at its first use. */
    fun load(graphs: List<String>)

    /** Frees their memory; each is loaded again at its next use. */
    fun release(graphs: List<String>)
}
