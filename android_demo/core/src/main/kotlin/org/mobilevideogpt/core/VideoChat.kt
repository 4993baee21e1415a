package org.mobilevideogpt.core

import java.io.Closeable
import java.io.File
import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors
import java.util.concurrent.RejectedExecutionException
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicInteger

/** Where frames come from: up to 16 of a video, upright RGB, those that [pickFrames] names. Called once, on the chat's thread. */
fun interface FrameSource {
    /** Errors: [VideoGptException], of which the user is told. */
    fun frames(): List<RgbImage>
}

/** What the encoders read of a clip, and of how many sampled frames it is. */
class Clip(val frames: Int, val pixels: Pixels)

/** Where a clip comes from whose frames are reduced one by one as they are decoded: 16 whole frames of a 4K video take 400 MB. Called
 * once, on the chat's thread. */
fun interface ClipSource {
    /** [stopped] is to be asked often: where it says so, any [VideoGptException] ends the work, and nobody is told of a failure. */
    fun read(p: Preprocessing, stopped: () -> Boolean): Clip
}

/** Hears of one piece of work, on the chat's thread: one of [done], [failed] and [stopped] comes, and nothing after it. */
interface Listener<in T> {
    fun done(result: T)

    /** The error's message is a line for the user. */
    fun failed(error: VideoGptException)

    /** [VideoChat.stop] or [VideoChat.close] came before there was a result. */
    fun stopped() {}

    /** What begins now: a graph, or a run of the benchmark. */
    fun progress(what: String) {}
}

/** Hears an answer as it comes. An answer that is stopped is done: what was said belongs to the conversation. */
interface AnswerListener : Listener<Answer> {
    /** More of the text, whole characters. */
    fun text(piece: String)
}

/** A clip was taken in. [keyFrames]: indices, ascending, of 16; those from [frames] on, the number of frames that there were, are padding.
 * [stagesSeconds]: `read`, `preprocess`, `loading` of graphs, and each graph by its name. */
class Watched(val frames: Int, val keyFrames: IntArray, val stagesSeconds: Map<String, Double>)

/** How an answer ended. */
enum class Ending { COMPLETE, STOPPED, LIMIT, CONTEXT_FULL }

/**
 * An answer and what it cost. [stagesSeconds] sum up to the first token: the watching, where this is the first answer after it, what
 * was prefilled ahead (`prefill_ahead`), and `prefill`. [tokensPerSecond] counts the steps behind the first token. [forgotten]: turns that
 * the conversation lost for want of context.
 */
class Answer(
    val text: String,
    val ids: IntArray,
    val ending: Ending,
    val stagesSeconds: Map<String, Double>,
    val tokensPerSecond: Double?,
    val contextTokens: Int,
    val maxContext: Int,
    val forgotten: Int,
    val peakRssBytes: Long,
) {
    /** Seconds that the user waited for the first token; null where none came. */
    val firstTokenSeconds: Double? get() = if (ids.isEmpty()) null else stagesSeconds.values.sum()
}

/**
 * What an app embeds: one bundle, one video, one conversation, on a thread of its own. Each call hands over a piece of work and returns
 * at once; work is done in the order of the calls, and its listener hears of it on the chat's thread. After [close] nobody hears anything.
 *
 *     val chat = VideoChat { bundle -> ExecuTorchBackend(bundle) }
 */
class VideoChat(private val createBackend: (Bundle) -> GraphBackend) : Closeable {
    private val worker: ExecutorService = Executors.newSingleThreadExecutor { Thread(it, "video-chat") }
    private val stops = AtomicInteger()

    private var opened: Opened? = null // on the worker alone, as all that follows
    private var unreported: Map<String, Double> = emptyMap() // the video's stages, told with the first answer

    private class Opened(val bundle: Bundle, val backend: GraphBackend, val tokenizer: Tokenizer, val session: Session, val work: Stoppable)

    /** Opens a bundle in place of the one before, which is freed first. Every byte is hashed the first time; [stamps] remembers that. */
    fun open(folder: File, host: Host, stamps: File, listener: Listener<Bundle>) = post(listener) {
        free()
        val bundle = openBundle(folder, host, stamps)
        val tokenizer = bundle.tokenizer()
        val backend = createBackend(bundle)
        val work = Stoppable(backend)
        opened = Opened(bundle, backend, tokenizer, Session(work, tokenizer::encode), work)
        bundle
    }

    /** Takes in a clip and begins a conversation about it. When the listener has heard of it, the video is put into the decoder's cache
     * while the question is still being asked. A video that cannot be read leaves the conversation before it as it was. */
    fun watch(source: FrameSource, listener: Listener<Watched>) = post(listener) { stopped ->
        val (chat, seconds) = chat() to LinkedHashMap<String, Double>()
        val frames = timed(seconds, "read") { source.frames() }
        stopped.check()
        val pixels = timed(seconds, "preprocess") { Pixels.of(frames, chat.bundle.manifest.preprocessing) }
        watch(chat, Clip(frames.size, pixels), seconds, listener, stopped)
    }

    /** The same of a clip whose frames are never all in memory. */
    fun watchClip(source: ClipSource, listener: Listener<Watched>) = post(listener) { stopped ->
        val (chat, seconds) = chat() to LinkedHashMap<String, Double>()
        val clip = try {
            timed(seconds, "read") { source.read(chat.bundle.manifest.preprocessing) { stopped.came } }
        } catch (error: VideoGptException) {
            stopped.check() // a reader that was stopped is no failure
            throw error
        }
        watch(chat, clip, seconds, listener, stopped)
    }

    /** Asks, in words. The oldest turns are forgotten where the context has no room left. */
    fun ask(question: String, listener: AnswerListener, sampler: Sampler = Sampler(), maxNewTokens: Int = MAX_NEW_TOKENS) =
        post(listener) { stopped ->
            val chat = chat()
            chat.work.until(stopped) { answer(chat, question, sampler, maxNewTokens, listener, stopped) }
        }

    /** Begins another conversation about the same clip. */
    fun startOver() = submit { opened?.session?.startOver() }

    /** Runs the pipeline on the bundle's own frames and compares with what the model computed when it was built. */
    fun selfTest(listener: Listener<SelfTestReport>) = post(listener) { stopped ->
        val chat = chat()
        chat.work.until(stopped, listener::progress) { disturbing(chat) { selfTest(chat.bundle, chat.work) } }
    }

    /** Times every stage on synthetic input. */
    fun bench(options: BenchOptions, listener: Listener<BenchReport>) = post(listener) { stopped ->
        val chat = chat()
        chat.work.until(stopped) { disturbing(chat) { bench(chat.bundle, chat.work, options, listener::progress) } }
    }

    /** Ends all work that was handed over so far: an answer within a token, a prefill within one call of the decoder, anything else
     * within a graph. From any thread. */
    fun stop() {
        stops.incrementAndGet()
    }

    /** Frees the graphs that watch, and with [decoder] all others too, once the work before it is through ([stop] it where it must not
     * wait). They are loaded again at their next use, and the conversation goes on: it is fed in again. */
    fun trimMemory(decoder: Boolean = false) = submit {
        val chat = opened ?: return@submit
        chat.backend.release(if (decoder) GRAPHS else VISION)
        if (decoder) chat.session.cacheLost()
    }

    /** Stops, frees everything and ends the thread; returns at once. */
    override fun close() {
        stop()
        submit(::free)
        worker.shutdown()
    }

    /** Waits until [close] is through; false where it takes longer. */
    fun awaitClosed(seconds: Long): Boolean = worker.awaitTermination(seconds, TimeUnit.SECONDS)

    private fun watch(
        chat: Opened,
        clip: Clip,
        seconds: MutableMap<String, Double>,
        listener: Listener<Watched>,
        stopped: Stopped,
    ): Watched {
        val keyFrames = chat.work.until(stopped, listener::progress) { chat.session.watch(clip.pixels) }
        seconds += chat.session.stagesSeconds
        unreported = seconds
        submit { prefillAhead(chat, stopped) }
        return Watched(clip.frames, keyFrames, seconds)
    }

    private fun answer(
        chat: Opened,
        question: String,
        sampler: Sampler,
        maxNewTokens: Int,
        listener: AnswerListener,
        stopped: Stopped,
    ): Answer {
        val (session, stream) = chat.session to TextStream(chat.tokenizer)
        val (text, ids) = StringBuilder() to ArrayList<Int>()
        var ending = Ending.COMPLETE
        var firstSeconds = 0.0
        var began = System.nanoTime()
        if (!session.watched) throw VideoGptException.BadPrompt("choose a video before the first question")
        try {
            for (id in session.ask(question, sampler, maxNewTokens)) {
                if (ids.isEmpty()) {
                    firstSeconds = secondsSince(began, System::nanoTime)
                    began = System.nanoTime()
                }
                ids += id
                stream.step(id).also { if (it.isNotEmpty()) listener.text(it) }.also(text::append)
                stopped.check()
            }
            if (ids.size == maxNewTokens) ending = Ending.LIMIT
            if (session.full) ending = Ending.CONTEXT_FULL
        } catch (_: StoppedException) {
            ending = Ending.STOPPED
        }
        stream.flush().also { if (it.isNotEmpty()) listener.text(it) }.also(text::append)
        val steps = secondsSince(began, System::nanoTime)
        val stages = if (ids.isEmpty()) emptyMap() else (unreported + ("prefill" to firstSeconds)).also { unreported = emptyMap() }
        val rate = if (ids.size > 1) (ids.size - 1) / steps else null
        val tokens = session.position
        return Answer("$text", ids.toIntArray(), ending, stages, rate, tokens, chat.backend.maxContext, session.forgotten, peakRssBytes())
    }

    /** Nobody waits for this: what goes wrong, the question meets again and reports. */
    private fun prefillAhead(chat: Opened, stopped: Stopped) {
        if (opened !== chat || !chat.session.watched) return // another video was chosen since, and was not watched to its end
        val seconds = LinkedHashMap<String, Double>()
        try {
            timed(seconds, "prefill_ahead") { chat.work.until(stopped) { chat.session.prefillVideo() } }
            unreported = unreported + seconds
        } catch (_: StoppedException) {
        } catch (_: VideoGptException) {
        }
    }

    /** Work that uses the decoder for something else than the conversation. */
    private fun <T> disturbing(chat: Opened, work: () -> T): T = try {
        work()
    } finally {
        chat.session.cacheLost()
        chat.backend.release(VISION)
    }

    private fun chat(): Opened = opened ?: throw VideoGptException.BadPrompt("open a bundle first")

    private fun free() {
        opened?.backend?.close()
        opened = null
    }

    private fun <T> post(listener: Listener<T>, work: (Stopped) -> T) {
        val stopped = Stopped(stops)
        submit {
            try {
                stopped.check()
                listener.done(work(stopped))
            } catch (_: StoppedException) {
                listener.stopped()
            } catch (error: VideoGptException) {
                listener.failed(error)
            } catch (error: OutOfMemoryError) {
                listener.failed(VideoGptException.GraphFailed("at hand", "out of memory", error))
            }
        }
    }

    private fun submit(work: () -> Unit) {
        try {
            worker.execute(work)
        } catch (_: RejectedExecutionException) {
            // closed: the system may still say that memory is short
        }
    }

    private fun <T> timed(seconds: MutableMap<String, Double>, name: String, work: () -> T): T {
        val started = System.nanoTime()
        return work().also { seconds[name] = secondsSince(started, System::nanoTime) }
    }
}
