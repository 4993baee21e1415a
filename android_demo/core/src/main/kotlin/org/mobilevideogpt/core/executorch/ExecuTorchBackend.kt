package org.mobilevideogpt.core.executorch

import java.nio.FloatBuffer
import org.mobilevideogpt.core.Bundle
import org.mobilevideogpt.core.FloatTensor
import org.mobilevideogpt.core.GraphBackend
import org.mobilevideogpt.core.Manifest
import org.mobilevideogpt.core.VideoGptException
import org.pytorch.executorch.EValue
import org.pytorch.executorch.ExecuTorchRuntime
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** The ExecuTorch that this library is built with. */
const val EXECUTORCH_VERSION = "1.4.1"

/**
 * ExecuTorch's Android library behind the backend interface: the `.pte` files of a bundle, memory-mapped, each loaded at first use.
 *
 * All graphs of a process share one thread pool, and hold on to it: backends of another number of [threads] have to wait until the
 * last one is closed.
 *
 * Errors: [VideoGptException.MissingOperators]; [VideoGptException.BadOption] for [threads].
 */
class ExecuTorchBackend(private val bundle: Bundle, private val threads: Int = defaultThreads()) : GraphBackend {
    override val manifest: Manifest = bundle.manifest
    override val maxContext: Int = manifest.decoder.maxContext
    override val name: String = "executorch"
    private val mostTokens = manifest.graphs.getValue("decoder").mostTokens ?: maxContext // of one call
    private val modules = HashMap<String, Module>()

    init {
        if (threads !in 1..MAX_THREADS) throw VideoGptException.BadOption("$threads threads: give 1 to $MAX_THREADS")
        checkOperators()
    }

    override fun versions(): Map<String, String> = mapOf("executorch" to EXECUTORCH_VERSION)

    override fun run(graph: String, input: FloatTensor): FloatTensor {
        val output = execute(graph, floats(input.data, 0, input.data.size, input.shape))
        return FloatTensor(output.dataAsFloatArray, output.shape().map { it.toInt() }.toIntArray())
    }

    override fun embed(ids: IntArray): FloatTensor {
        val longs = Tensor.allocateLongBuffer(ids.size).apply { ids.forEach { put(it.toLong()) } }
        val output = execute("token_embedding", Tensor.fromBlob(longs, longArrayOf(ids.size.toLong())))
        return FloatTensor(output.dataAsFloatArray, output.shape().map { it.toInt() }.toIntArray()) // [N, D]
    }

    override fun decode(embeds: FloatTensor, position: Int): FloatArray {
        var logits = FloatArray(0)
        for (start in 0 until embeds.rows step mostTokens) {
            val rows = minOf(mostTokens, embeds.rows - start)
            val part = floats(embeds.data, start * embeds.width, rows * embeds.width, intArrayOf(rows, embeds.width)) // [T, D]
            val at = Tensor.fromBlob(longArrayOf((position + start).toLong()), longArrayOf(1))
            logits = execute("decoder", part, at).dataAsFloatArray // [V]
        }
        return logits
    }

    override fun load(graphs: List<String>) = graphs.forEach { module(it) }

    override fun release(graphs: List<String>) = graphs.forEach { graph ->
        modules.remove(graph)?.let {
            it.destroy()
            pool.leave()
        }
    }

    override fun close() = release(modules.keys.toList())

    /** The one output of a graph. It lies in the graph's own memory, and is read before the graph runs again. */
    private fun execute(graph: String, vararg inputs: Tensor): Tensor {
        val module = module(graph)
        return failing(graph) { module.execute(METHOD, *Array(inputs.size) { EValue.from(inputs[it]) })[0].toTensor() }
    }

    private fun module(graph: String): Module = modules.getOrPut(graph) {
        pool.enter(threads)
        try {
            failing(graph) {
                val module = Module.load(bundle.graphFile(graph).path, Module.LOAD_MODE_MMAP, threads)
                try {
                    module.also { it.loadMethod(METHOD) } // now: its time belongs to the loading
                } catch (error: RuntimeException) {
                    module.destroy()
                    throw error
                }
            }
        } catch (error: VideoGptException) {
            pool.leave()
            throw error
        }
    }

    private fun checkOperators() {
        val present = ExecuTorchRuntime.getRegisteredOps().toSet()
        val needed = manifest.graphs.values.flatMap { it.operators }.distinct().filterNot { it.startsWith(INTERPRETED) }
        val missing = needed.filterNot { it in present }
        if (missing.isNotEmpty()) throw VideoGptException.MissingOperators(missing)
    }

    /** ExecuTorch's exceptions as the one line that they come to. */
    private fun <T> failing(graph: String, work: () -> T): T = try {
        work()
    } catch (error: RuntimeException) {
        throw VideoGptException.GraphFailed(graph, error.message ?: error.javaClass.simpleName, error)
    }

    private fun floats(data: FloatArray, from: Int, count: Int, shape: IntArray): Tensor {
        val buffer: FloatBuffer = Tensor.allocateFloatBuffer(count)
        buffer.put(data, from, count)
        return Tensor.fromBlob(buffer, LongArray(shape.size) { shape[it].toLong() })
    }

    companion object {
        private const val METHOD = "forward"
        private const val INTERPRETED = "executorch_prim::" // instructions of the runtime itself, present in every build
        private const val MAX_THREADS = 64
        private val pool = SharedPool()

        /** Half of the cores, which on a phone leaves out the slow ones. */
        fun defaultThreads(): Int = maxOf(1, Runtime.getRuntime().availableProcessors() / 2)
    }
}

/** The process's thread pool: loading a module with another number of threads replaces it, under the graphs that hold it. */
private class SharedPool {
    private var threads = 0
    private var users = 0

    @Synchronized
    fun enter(wanted: Int) {
        if (users > 0 && threads != wanted) {
            throw VideoGptException.BadOption("$wanted threads: graphs of this app are loaded with $threads, close them first")
        }
        threads = wanted
        users++
    }

    @Synchronized
    fun leave() {
        users--
    }
}
