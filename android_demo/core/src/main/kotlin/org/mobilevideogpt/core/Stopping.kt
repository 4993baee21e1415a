package org.mobilevideogpt.core

import java.util.concurrent.atomic.AtomicInteger

/** Whether `stop` came after this was made. */
internal class Stopped(private val stops: AtomicInteger) {
    private val before = stops.get()

    val came: Boolean get() = stops.get() != before

    fun check() {
        if (came) throw StoppedException()
    }
}

internal class StoppedException : RuntimeException()

/** A backend that can be stopped between graphs, and between the calls of one prefill. */
internal class Stoppable(private val backend: GraphBackend) : GraphBackend by backend {
    private var stopped: Stopped? = null
    private var progress: (String) -> Unit = {}

    /** Runs [work] on this backend until it is stopped, and says which graph begins. */
    fun <T> until(stopped: Stopped, progress: (String) -> Unit = {}, work: () -> T): T {
        this.stopped = stopped
        this.progress = progress
        try {
            return work()
        } finally {
            this.stopped = null
            this.progress = {}
        }
    }

    override fun run(graph: String, input: FloatTensor): FloatTensor {
        stopped?.check()
        progress(graph)
        return backend.run(graph, input)
    }

    override fun decode(embeds: FloatTensor, position: Int): FloatArray {
        val most = manifest.graphs.getValue("decoder").mostTokens ?: embeds.rows
        var logits = FloatArray(0)
        for (start in 0 until embeds.rows step most) { // as the backend itself would split them
            stopped?.check()
            val part = if (embeds.rows <= most) embeds else embeds.slice(start, minOf(start + most, embeds.rows))
            logits = backend.decode(part, position + start)
        }
        return logits
    }
}
