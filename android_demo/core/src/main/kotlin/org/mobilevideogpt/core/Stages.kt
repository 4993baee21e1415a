package org.mobilevideogpt.core

/** The graphs that watch a clip: what [visualTokens] runs. */
val VISION = listOf("image_encoder", "frame_scorer", "video_encoder", "image_projector", "video_projector")

/** What the encoders read: [16, 3, 224, 224] RGB in 0..255 each. */
class Pixels(val clip: FloatTensor, val video: FloatTensor) {
    companion object {
        /** Reduces up to 16 frames as the release does. */
        fun of(frames: List<RgbImage>, p: Preprocessing): Pixels = Pixels(clipPixels(frames, p), videoPixels(frames, p))
    }
}

/**
 * What watching a clip gives: [tokens] that replace the placeholders of a prompt, image tokens in frame order, then video tokens [V, D];
 * the scores of the frames [2][8], and the frames that were chosen by them [2][4], ascending, counted within their chunk.
 */
class Watching(val tokens: FloatTensor, val frameScores: Array<FloatArray>, val selected: Array<IntArray>) {
    /** Indices of the key frames among the 16; those beyond the frames that were sampled are padding. */
    fun keyFrames(p: Preprocessing): IntArray =
        selected.flatMapIndexed { chunk, picks -> picks.map { chunk * p.chunkFrames + it } }.toIntArray()
}

/** Runs the graphs that watch. [forced]: frames that go on in place of the chosen ones. */
fun visualTokens(backend: GraphBackend, pixels: Pixels, forced: Array<IntArray>? = null): Watching {
    val p = backend.manifest.preprocessing
    val chunks = p.frames / p.chunkFrames
    val features = backend.run("image_encoder", pixels.clip) // [16, P, C]
    val (patches, width) = features.shape[1] to features.shape[2]
    val inChunks = FloatTensor(features.data, intArrayOf(chunks, p.chunkFrames, patches, width)) // [2, 8, P, C]
    val scored = backend.run("frame_scorer", inChunks) // [2, 8]
    val scores = Array(chunks) { scored.data.copyOfRange(it * p.chunkFrames, (it + 1) * p.chunkFrames) }
    val selected = selectKeyFrames(scores, p.topk, p.keyFramesPerChunk, p.tieTolerance) // [2][4]
    val picked = (forced ?: selected).flatMapIndexed { chunk, picks -> picks.map { chunk * p.chunkFrames + it } }
    val keyFrames = joined(picked.map { pixels.video.slice(it, it + 1) }) // [8, 3, 224, 224]
    val clip = FloatTensor(keyFrames.data, intArrayOf(1) + keyFrames.shape) // [1, 8, 3, 224, 224]
    val encoded = backend.run("video_encoder", clip) // [8, P, C]
    val image = backend.run("image_projector", features) // [2304, D]
    val video = backend.run("video_projector", encoded) // [98, D]
    return Watching(joined(listOf(image, video)), scores, selected)
}

/** Embeddings [N, D] of a prompt whose run of placeholders becomes the visual tokens [V, D]. */
fun promptEmbeds(backend: GraphBackend, before: IntArray, visual: FloatTensor, after: IntArray): FloatTensor =
    joined(listOfNotNull(before.embedded(backend), visual, after.embedded(backend)))

/** Null where there are none: a graph takes no empty list of ids. */
private fun IntArray.embedded(backend: GraphBackend): FloatTensor? = if (isEmpty()) null else embed(backend, this)

/** Embeddings [N, D] of text ids. Errors: [VideoGptException.BadPrompt] for an id outside the vocabulary. */
fun embed(backend: GraphBackend, ids: IntArray): FloatTensor {
    val vocabulary = backend.manifest.model.decoder.vocab
    val outside = ids.firstOrNull { it !in 0 until vocabulary }
    if (outside != null) {
        throw VideoGptException.BadPrompt(
            "id $outside is outside the vocabulary of $vocabulary: tokenize with the checkpoint's own tokenizer",
        )
    }
    return backend.embed(ids)
}

/** Whether [new] tokens behind [position] leave room for so many tokens of answer. */
internal fun fits(backend: GraphBackend, position: Int, new: Int, room: Int = 1): Boolean = position + new + room <= backend.maxContext

/** Errors: [VideoGptException.PromptTooLong] where [fits] does not hold. */
internal fun checkFits(backend: GraphBackend, position: Int, new: Int) {
    if (!fits(backend, position, new)) {
        throw VideoGptException.PromptTooLong(new, position, backend.maxContext, backend.manifest.model.visualTokens)
    }
}

/** Rows [from] up to [until], copied: [N, ...] -> [until - from, ...]. */
internal fun FloatTensor.slice(from: Int, until: Int): FloatTensor =
    FloatTensor(data.copyOfRange(from * width, until * width), shape.copyOf().also { it[0] = until - from })

/** Tensors of the same width one behind another, along the first axis. */
internal fun joined(parts: List<FloatTensor>): FloatTensor {
    val data = FloatArray(parts.sumOf { it.data.size })
    var at = 0
    for (part in parts) {
        part.data.copyInto(data, at)
        at += part.data.size
    }
    return FloatTensor(data, parts[0].shape.copyOf().also { it[0] = parts.sumOf { part -> part.rows } })
}
