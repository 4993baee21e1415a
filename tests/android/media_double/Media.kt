// A double of Android's extractor and decoder, which behaves where the stubs only declare: it plays a recording that a test wrote, in
// place of a phone's codecs. The decoder has what trips readers of video: few input and output buffers, pictures that come later and in
// another order than they went in, nothing before a keyframe, planes with padding and interleaved chroma, and memory that is
// overwritten when a buffer goes back.
//
// The recording's folder: `format.txt` (a key and a number or a word a line), `samples.txt` (time in us, whether a keyframe, and the number
// of the decoded picture or -1, a line for each coded picture in decode order) and `planes.bin` (yuv420p pictures without padding).

package android.media

import android.graphics.Rect
import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.util.PriorityQueue

private const val END = MediaCodec.BUFFER_FLAG_END_OF_STREAM

class Sample(val timeUs: Long, val key: Boolean, val picture: Int)

class Recording(folder: File) {
    val values = File(folder, "format.txt").readLines().associate { it.substringBefore(' ') to it.substringAfter(' ') }
    val samples = File(folder, "samples.txt").readLines().map { line ->
        line.split(' ').let { (time, key, picture) -> Sample(time.toLong(), key == "1", picture.toInt()) }
    }
    val width = values.getValue("width").toInt()
    val height = values.getValue("height").toInt()
    val planes: ByteArray = File(folder, "planes.bin").readBytes()

    companion object {
        var current: Recording? = null // what a codec decodes: one recording a process
    }
}

class MediaFormat {
    val values = HashMap<String, Any>()

    fun containsKey(name: String) = name in values
    fun getInteger(name: String): Int = values.getValue(name) as Int
    fun getFloat(name: String): Float = values.getValue(name) as Float
    fun getString(name: String): String? = values[name] as String?
    fun setInteger(name: String, value: Int) {
        values[name] = value
    }

    companion object {
        const val KEY_COLOR_FORMAT = "color-format"

        @JvmStatic
        fun createVideoFormat(mime: String, width: Int, height: Int) = MediaFormat().also { it.values += mapOf("mime" to mime, "width" to width, "height" to height) }

        /** The lines of `format.txt` whose key begins so: words stay words, numbers with a point are floats. */
        fun of(recording: Recording, prefix: String) = MediaFormat().also { format ->
            for ((key, value) in recording.values) {
                if (!key.startsWith(prefix)) continue
                format.values[key.removePrefix(prefix)] = value.toIntOrNull() ?: value.toFloatOrNull() ?: value
            }
            format.values += mapOf("width" to recording.width, "height" to recording.height)
        }
    }
}

class MediaExtractor {
    private var recording: Recording? = null
    private var at = 0
    private var selected = false

    fun setDataSource(path: String) {
        if (!File(path, "format.txt").isFile) throw IOException("Failed to instantiate extractor.")
        recording = Recording(File(path)).also { Recording.current = it }
    }

    fun getTrackCount(): Int = 2 // the first one is sound

    fun getTrackFormat(index: Int): MediaFormat =
        if (index == 0) MediaFormat().also { it.values["mime"] = "audio/mp4a-latm" } else MediaFormat.of(recording!!, "track.")

    fun selectTrack(index: Int) {
        selected = index == 1
    }

    fun seekTo(timeUs: Long, mode: Int) {
        check(selected && mode == SEEK_TO_PREVIOUS_SYNC)
        val samples = recording!!.samples
        at = samples.indices.filter { samples[it].key && samples[it].timeUs <= timeUs }.maxByOrNull { samples[it].timeUs } ?: 0
    }

    fun advance(): Boolean {
        if (at < recording!!.samples.size) at++
        return at < recording!!.samples.size
    }

    fun readSampleData(buffer: ByteBuffer, offset: Int): Int {
        if (at >= recording!!.samples.size) return -1
        buffer.putInt(offset, at)
        return 4
    }

    fun getSampleTrackIndex(): Int = if (selected && at < recording!!.samples.size) 1 else -1
    fun getSampleTime(): Long = recording!!.samples.getOrNull(at)?.timeUs ?: -1
    fun getSampleFlags(): Int = if (recording!!.samples[at].key) 1 else 0
    fun release() {
        selected = false
    }

    companion object {
        const val SEEK_TO_PREVIOUS_SYNC = 0
    }
}

class MediaCodecList(@Suppress("UNUSED_PARAMETER") kind: Int) {
    fun findDecoderForFormat(format: MediaFormat): String? = if (format.getString("mime") == "video/none") null else "double"
}

class MediaCodec private constructor() {
    class BufferInfo {
        @JvmField var flags = 0
        @JvmField var size = 0
        @JvmField var presentationTimeUs = 0L
    }

    private class Output(val sample: Sample?, val image: DoubleImage?)

    private val recording = Recording.current!!
    private val reorder = recording.values.getValue("reorder").toInt() // pictures that wait for others
    private val input = ByteBuffer.allocate(64)
    private val waiting = PriorityQueue<Sample>(compareBy { it.timeUs })
    private val outputs = arrayOfNulls<Output>(OUTPUTS)
    private var given: Sample? = null // keeps the keyframe that decoding began with
    private var previous = -1
    private var started = false
    private var formatTold = false
    private var ended = false

    fun configure(format: MediaFormat?, surface: android.view.Surface?, crypto: MediaCrypto?, flags: Int) {
        check(format!!.containsKey(MediaFormat.KEY_COLOR_FORMAT) && surface == null && crypto == null && flags == 0)
    }

    fun start() {
        started = true
        live++
        check(live == 1) { "two codecs at once" }
    }

    fun flush() {
        check(started && formatTold) { "a flush before the first output loses what the codec was configured with" }
        outputs.fill(null)
        waiting.clear()
        given = null
        previous = -1
        ended = false
    }

    fun release() {
        if (started) live--
        started = false
    }

    fun dequeueInputBuffer(@Suppress("UNUSED_PARAMETER") timeoutUs: Long): Int {
        check(started && !ended)
        return if (waiting.size > reorder) -1 else 0
    }

    fun getInputBuffer(index: Int): ByteBuffer? = if (index == 0) input else null

    fun queueInputBuffer(index: Int, offset: Int, size: Int, presentationTimeUs: Long, flags: Int) {
        check(started && index == 0 && offset == 0)
        if (flags and END != 0) {
            ended = true
            return
        }
        val number = input.getInt(0)
        val sample = recording.samples[number]
        check(size == 4 && presentationTimeUs == sample.timeUs)
        if (number.toString() in recording.values["fails"].orEmpty().split(',')) throw CodecException()
        if (previous >= 0) check(number == previous + 1) { "coded pictures out of order" }
        previous = number
        if (given == null && sample.key) given = sample
        val begun = given ?: return // nothing before a keyframe
        if (sample.timeUs < begun.timeUs) return // refers to the group before, which never came
        if (sample.picture >= 0) waiting += sample
    }

    fun dequeueOutputBuffer(info: BufferInfo, @Suppress("UNUSED_PARAMETER") timeoutUs: Long): Int {
        check(started)
        if (waiting.isEmpty() && !ended) return TRY_AGAIN
        if (!formatTold) {
            formatTold = true
            return INFO_OUTPUT_FORMAT_CHANGED
        }
        val free = outputs.indexOf(null)
        if (free < 0 || (waiting.size <= reorder && !ended)) return TRY_AGAIN
        val sample = waiting.poll()
        outputs[free] = Output(sample, sample?.let { DoubleImage(recording, it.picture) })
        info.flags = if (sample == null) END else 0
        info.size = if (sample == null) 0 else 1
        info.presentationTimeUs = sample?.timeUs ?: 0
        return free
    }

    fun getOutputFormat(): MediaFormat = MediaFormat.of(recording, "decoder.")

    fun getOutputImage(index: Int): Image? = checkNotNull(outputs[index]) { "the buffer went back" }.image

    fun releaseOutputBuffer(index: Int, render: Boolean) {
        check(!render)
        checkNotNull(outputs[index]) { "the buffer went back already" }.image?.spoil()
        outputs[index] = null
    }

    class CodecException : IllegalStateException("the bitstream is damaged")

    companion object {
        const val BUFFER_FLAG_END_OF_STREAM = 4
        const val INFO_OUTPUT_FORMAT_CHANGED = -2
        private const val TRY_AGAIN = -1
        private const val OUTPUTS = 3
        var live = 0 // codecs that were started and not released

        @JvmStatic
        fun createByCodecName(name: String): MediaCodec = MediaCodec().also { check(name == "double") }
    }
}

abstract class Image {
    abstract fun getFormat(): Int
    abstract fun getCropRect(): Rect
    abstract fun getPlanes(): Array<Plane>

    abstract class Plane {
        abstract fun getBuffer(): ByteBuffer
        abstract fun getRowStride(): Int
        abstract fun getPixelStride(): Int
    }
}

/** A picture in a larger one: padding around it, rows longer than it, and chroma interleaved where the recording says `nv12` or `nv21`. */
class DoubleImage(private val recording: Recording, picture: Int) : Image() {
    private val left = 2
    private val top = 4
    private val layout = recording.values.getValue("layout")
    private val width = recording.width
    private val height = recording.height
    private val rowStride = width + left + 14
    private val rows = height + top + 2
    private val chromaStride = if (layout == "i420") rowStride / 2 + 3 else rowStride + 6
    private val luma = ByteBuffer.allocateDirect(rowStride * rows)
    private val chroma = ByteBuffer.allocateDirect(chromaStride * (rows / 2 + 1) * 2)
    private val step = if (layout == "i420") 1 else 2
    private val second = if (layout == "i420") chromaStride * (rows / 2 + 1) else 1 // where the other chroma plane begins

    init {
        spoil()
        val (halfWidth, halfHeight) = (width + 1) / 2 to (height + 1) / 2
        val size = width * height + 2 * halfWidth * halfHeight
        val from = picture * size
        for (row in 0 until height) for (column in 0 until width) {
            luma.put((row + top) * rowStride + column + left, recording.planes[from + row * width + column])
        }
        val (u, v) = if (layout == "nv21") 1 to 0 else 0 to 1
        for ((plane, place) in listOf(u, v).withIndex()) for (row in 0 until halfHeight) for (column in 0 until halfWidth) {
            val value = recording.planes[from + width * height + plane * halfWidth * halfHeight + row * halfWidth + column]
            chroma.put(place * second + (row + top / 2) * chromaStride + (column + left / 2) * step, value)
        }
    }

    /** Nobody may read it from now on. */
    fun spoil() {
        for (buffer in listOf(luma, chroma)) for (i in 0 until buffer.capacity()) buffer.put(i, 77)
    }

    override fun getFormat(): Int = if (recording.values["deep"] == "1") 54 else 35
    override fun getCropRect(): Rect = Rect(left, top, left + width, top + height)
    override fun getPlanes(): Array<Plane> {
        val first = chroma.duplicate()
        val other = (chroma.duplicate().position(second) as ByteBuffer).slice()
        val (u, v) = if (layout == "nv21") other to first else first to other
        return arrayOf(plane(luma.duplicate(), rowStride, 1), plane(u, chromaStride, step), plane(v, chromaStride, step))
    }

    private fun plane(buffer: ByteBuffer, row: Int, pixel: Int) = object : Plane() {
        override fun getBuffer() = buffer
        override fun getRowStride() = row
        override fun getPixelStride() = pixel
    }
}
