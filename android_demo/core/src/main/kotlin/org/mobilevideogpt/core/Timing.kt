package org.mobilevideogpt.core

import java.io.File
import java.io.IOException

/**
 * A backend with a clock: adds the seconds of each graph to [seconds], under its name, and what it takes to load those that are not
 * loaded yet under `loading`. [clock] gives nanoseconds.
 */
internal class TimedBackend(
    private val backend: GraphBackend,
    private val seconds: MutableMap<String, Double>,
    private val clock: () -> Long,
) : GraphBackend by backend {
    override fun run(graph: String, input: FloatTensor): FloatTensor {
        load(listOf(graph))
        return timed(graph) { backend.run(graph, input) }
    }

    override fun embed(ids: IntArray): FloatTensor {
        load(listOf("token_embedding"))
        return timed("token_embedding") { backend.embed(ids) }
    }

    override fun decode(embeds: FloatTensor, position: Int): FloatArray {
        load(listOf("decoder"))
        return timed("decoder") { backend.decode(embeds, position) }
    }

    override fun load(graphs: List<String>) = timed("loading") { backend.load(graphs) }

    private fun <T> timed(name: String, work: () -> T): T {
        val started = clock()
        val output = work()
        seconds[name] = (seconds[name] ?: 0.0) + secondsSince(started, clock)
        return output
    }
}

internal fun secondsSince(started: Long, clock: () -> Long): Double = (clock() - started) / 1e9

private val loadedAt = System.nanoTime()
private const val TICKS_PER_SECOND = 100 // of Linux's /proc, on every phone and on this side of it

/** Seconds since this process began; where the system does not say (Android hides `/proc/uptime` from apps), since this file was loaded. */
fun processAgeSeconds(): Double = try {
    val began = File("/proc/self/stat").readText().substringAfterLast(')').trim().split(' ')[19].toDouble() / TICKS_PER_SECOND
    File("/proc/uptime").readText().substringBefore(' ').toDouble() - began
} catch (_: IOException) {
    secondsSince(loadedAt, System::nanoTime)
}

/** The most memory that this process has had resident, in bytes, mapped files that were read included; 0 where the system does not say. */
fun peakRssBytes(): Long = try {
    File("/proc/self/status").readLines().firstOrNull { it.startsWith("VmHWM:") }?.split(Regex("\\s+"))?.get(1)?.toLong()?.times(1024) ?: 0
} catch (_: IOException) {
    0
}
