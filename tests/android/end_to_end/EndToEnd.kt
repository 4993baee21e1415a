import java.io.DataInputStream
import java.io.File
import java.io.FileDescriptor
import java.io.FileOutputStream
import java.io.PrintStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.concurrent.CountDownLatch
import org.json.JSONArray
import org.json.JSONObject
import org.mobilevideogpt.core.Answer
import org.mobilevideogpt.core.AnswerListener
import org.mobilevideogpt.core.BenchOptions
import org.mobilevideogpt.core.BenchReport
import org.mobilevideogpt.core.Bundle
import org.mobilevideogpt.core.Host
import org.mobilevideogpt.core.Listener
import org.mobilevideogpt.core.Machine
import org.mobilevideogpt.core.Pixels
import org.mobilevideogpt.core.RgbImage
import org.mobilevideogpt.core.SelfTestReport
import org.mobilevideogpt.core.VideoChat
import org.mobilevideogpt.core.VideoGptException
import org.mobilevideogpt.core.Watched
import org.mobilevideogpt.core.executorch.ExecuTorchBackend
import org.mobilevideogpt.core.openBundle
import org.mobilevideogpt.core.visualTokens

/**
 * Drives the app's library as an app does, for test_end_to_end.py: `EndToEnd BUNDLE STAMPS THREADS COMMANDS`, a file of commands, one a
 * line. Each but `over` and `trim` gives a line of JSON on stdout.
 *
 *     watch FRAMES           ask LIMIT QUESTION        stop PIECES QUESTION (stopped after so many pieces of text)
 *     over, trim             test, bench, context N    drop FRAMES (stopped when the second graph begins)
 *     threads N (another backend beside the open one)  twice FRAMES (and at once a video that cannot be read)
 *     stages FRAMES OUT
 */
fun main(args: Array<String>) {
    val (folder, stamps) = args.take(2).map(::File)
    val threads = args[2].toInt()
    val host = Host({ Long.MAX_VALUE }, customOperators = System.getProperty("fused") != null)
    val chat = VideoChat { ExecuTorchBackend(it, threads) }
    say(heard<Bundle> { chat.open(folder, host, stamps, it) }) { put("folder", it.folder.name) }
    for (line in File(args[3]).readLines()) {
        val words = line.split(' ', limit = 3)
        when (words[0]) {
            "watch" -> say(heard<Watched> { chat.watch({ readFrames(File(words[1])) }, it) }) { watched ->
                put("frames", watched.frames).put("key_frames", JSONArray(watched.keyFrames.toList()))
                put("stages", JSONObject(watched.stagesSeconds))
            }
            "twice" -> {
                val (first, second) = Waiting<Watched>() to Waiting<Watched>()
                chat.watch({ readFrames(File(words[1])) }, first)
                chat.watch({ throw VideoGptException.VideoUnreadable("no frame") }, second)
                say(first.await()) { put("watched", true) }
                say(second.await()) { put("watched", true) }
            }
            "drop" -> say(dropped(chat, File(words[1]))) { put("watched", true) }
            "ask" -> say(answered(chat, words[2], words[1].toInt(), stopAfter = null)) { putAnswer(it) }
            "stop" -> say(answered(chat, words[2], 1024, stopAfter = words[1].toInt())) { putAnswer(it) }
            "over" -> chat.startOver()
            "trim" -> chat.trimMemory(decoder = true)
            "test" -> say(heard<SelfTestReport> { chat.selfTest(it) }) { report ->
                put("passed", report.passed)
                report.checks.forEach { put(it.name, JSONArray(listOf(it.passed, it.detail))) }
            }
            "bench" -> say(heard<BenchReport> { chat.bench(options(threads, null), it) }) { put("report", JSONObject(it.toJson())) }
            "context" -> say(heard<BenchReport> { chat.bench(options(threads, words[1].toInt()), it) }) {
                put("report", JSONObject(it.toJson()))
            }
            "stages" -> dumpStages(openBundle(folder, host, stamps), threads, readFrames(File(words[1])), File(words[2]))
            "threads" -> say(beside(openBundle(folder, host, stamps), words[1].toInt())) { put("loaded", it) }
            else -> error("no command $line")
        }
    }
    chat.close()
    check(chat.awaitClosed(60)) { "the chat's thread goes on" }
    chat.trimMemory() // as the system may ask for after the end
    out.println(JSONObject().put("closed", true))
}

private fun options(threads: Int, context: Int?) = BenchOptions(Machine(threads), context, newTokens = 4, runs = 1)

private val out = PrintStream(FileOutputStream(FileDescriptor.out), true, "UTF-8")

/** What came of one piece of work: a result, an error for the user, or neither where it was stopped. */
private class Heard<T>(val result: T?, val error: VideoGptException?)

private open class Waiting<T> : Listener<T> {
    private val over = CountDownLatch(1)
    private var result: T? = null
    private var error: VideoGptException? = null

    override fun done(result: T) {
        this.result = result
        over.countDown()
    }

    override fun failed(error: VideoGptException) {
        this.error = error
        over.countDown()
    }

    override fun stopped() = over.countDown()

    fun await(): Heard<T> {
        over.await()
        return Heard(result, error)
    }
}

private fun <T> heard(work: (Listener<T>) -> Unit): Heard<T> = Waiting<T>().also(work).await()

private fun answered(chat: VideoChat, question: String, limit: Int, stopAfter: Int?): Heard<Pair<Answer, List<String>>> {
    val pieces = ArrayList<String>()
    val listener = object : Waiting<Answer>(), AnswerListener {
        override fun text(piece: String) {
            check(Thread.currentThread().name == "video-chat")
            pieces += piece
            if (pieces.size == stopAfter) chat.stop()
        }
    }
    chat.ask(question, listener, maxNewTokens = limit)
    return listener.await().let { heard -> Heard(heard.result?.let { it to pieces }, heard.error) }
}

/** Begins to watch, and stops when the second graph begins. */
private fun dropped(chat: VideoChat, file: File): Heard<Watched> {
    val listener = object : Waiting<Watched>() {
        override fun progress(what: String) {
            if (what == "frame_scorer") chat.stop()
        }
    }
    chat.watch({ readFrames(file) }, listener)
    return listener.await()
}

private fun JSONObject.putAnswer(heard: Pair<Answer, List<String>>) {
    val (answer, pieces) = heard
    put("ids", JSONArray(answer.ids.toList())).put("text", answer.text).put("pieces", JSONArray(pieces)).put("ending", answer.ending.name)
    put("context_tokens", answer.contextTokens).put("forgotten", answer.forgotten).put("stages", JSONObject(answer.stagesSeconds))
    put("first_token_s", answer.firstTokenSeconds ?: JSONObject.NULL).put("peak_rss_bytes", answer.peakRssBytes)
}

private fun <T> say(heard: Heard<T>, put: JSONObject.(T) -> Unit) {
    val line = JSONObject()
    heard.result?.let { line.put(it) }
    heard.error?.let { line.put("error", it.message).put("kind", it.javaClass.simpleName) }
    out.println(line)
}

/** Frames as the test writes them: their number, then width, height (big endian, 4 bytes each) and the RGB bytes of each. */
private fun readFrames(file: File): List<RgbImage> = DataInputStream(file.inputStream().buffered()).use { stream ->
    List(stream.readInt()) {
        val (width, height) = stream.readInt() to stream.readInt()
        RgbImage(width, height, ByteArray(width * height * 3).also(stream::readFully))
    }
}

/** Loads a graph in a second backend, with so many threads. */
private fun beside(bundle: Bundle, threads: Int): Heard<String> = try {
    ExecuTorchBackend(bundle, threads).use { it.load(listOf("frame_scorer")) }
    Heard("frame_scorer", null)
} catch (error: VideoGptException) {
    Heard(null, error)
}

/** What a clip becomes on its way to the decoder, and the logits behind it, in as many calls as the backend makes of it; each array as
 * little-endian floats in a file of its own. */
private fun dumpStages(bundle: Bundle, threads: Int, frames: List<RgbImage>, folder: File) {
    val pixels = Pixels.of(frames, bundle.manifest.preprocessing)
    val (seen, logits) = ExecuTorchBackend(bundle, threads).use { backend ->
        visualTokens(backend, pixels).let { it to backend.decode(it.tokens, 0) }
    }
    val arrays = mapOf(
        "clip" to pixels.clip.data, "video" to pixels.video.data, "scores" to seen.frameScores.flatMap { it.asList() }.toFloatArray(),
        "visual" to seen.tokens.data, "logits" to logits,
    )
    for ((name, data) in arrays) {
        val bytes = ByteBuffer.allocate(4 * data.size).order(ByteOrder.LITTLE_ENDIAN)
        bytes.asFloatBuffer().put(data)
        File(folder, "$name.bin").writeBytes(bytes.array())
    }
    out.println(JSONObject().put("selected", JSONArray(seen.selected.map { JSONArray(it.toList()) })))
}
