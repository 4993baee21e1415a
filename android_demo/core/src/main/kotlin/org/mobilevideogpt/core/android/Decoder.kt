package org.mobilevideogpt.core.android

import android.graphics.ImageFormat
import android.media.MediaCodec
import android.media.MediaCodecInfo.CodecCapabilities
import android.media.MediaCodecList
import android.media.MediaExtractor
import android.media.MediaFormat
import java.io.Closeable
import java.io.IOException
import org.mobilevideogpt.core.FrameIndex
import org.mobilevideogpt.core.Keyframe
import org.mobilevideogpt.core.Planes
import org.mobilevideogpt.core.RgbImage
import org.mobilevideogpt.core.VideoGptException
import org.mobilevideogpt.core.VideoGptException.Cancelled
import org.mobilevideogpt.core.VideoGptException.VideoUnreadable
import org.mobilevideogpt.core.VideoGptException.VideoUnsupported
import org.mobilevideogpt.core.toRgb

/** A decoded frame, upright, and when it is shown. */
internal class DecodedFrame(val timeUs: Long, val image: RgbImage)

/**
 * Decodes one video track from any of its keyframes on, in display order. Only frames that are asked for become RGB; the others go back to
 * the decoder untouched.
 *
 * @param open gives an extractor with the track selected, at its beginning; called again where a seek leads nowhere.
 */
internal class Decoder(
    private val open: () -> MediaExtractor,
    private val index: FrameIndex,
    private val format: MediaFormat,
    private val cancelled: () -> Boolean,
) : Closeable {
    /** Of the coded picture that the decoder takes next, in decode order. */
    var position = 0
        private set

    private class Output(val buffer: Int, val timeUs: Long)

    private val colours = Colours(format)
    private var extractor = open()
    private var codec = try {
        newCodec()
    } catch (error: VideoGptException) {
        extractor.release()
        throw error
    }
    private var outputFormat = format
    private var answered = false // since the codec was started: only then does a flush keep what the codec was configured with
    private var inputEnded = false
    private var outputEnded = false
    private var ahead: Output? = null // decoded already, and later than what was asked for
    private val info = MediaCodec.BufferInfo()

    /** Lets decoding begin at a keyframe, or at an earlier one where the container's seek leads there. */
    fun goTo(keyframe: Keyframe) {
        flush()
        for (target in listOf(keyframe, index.keyframes[0])) {
            extractor.seekTo(target.timeUs, MediaExtractor.SEEK_TO_PREVIOUS_SYNC)
            val landed = index.keyframes.firstOrNull { it.timeUs == extractor.sampleTime } ?: continue
            if (landed.position <= keyframe.position) {
                position = landed.position
                return
            }
        }
        extractor.release()
        extractor = open()
        position = 0
    }

    /**
     * The frame that is shown at [timeUs] or, where it is lost, those beside it: the last one before and the first one behind, as far as
     * there are such. Times are asked for in ascending order, but for a [goTo] between.
     */
    fun decodeUpTo(timeUs: Long): List<DecodedFrame> {
        var before: Output? = null
        while (true) {
            val output = ahead ?: next() ?: break
            ahead = null
            if (output.timeUs == timeUs) {
                before?.let { codec.releaseOutputBuffer(it.buffer, false) }
                return listOf(frame(output).also { codec.releaseOutputBuffer(output.buffer, false) })
            }
            if (output.timeUs > timeUs) {
                ahead = output
                return listOfNotNull(before?.let(::taken), frame(output))
            }
            before?.let { codec.releaseOutputBuffer(it.buffer, false) }
            before = output
        }
        // At the end of the stream the codec still holds its last output; after a failure it is another codec.
        return if (outputEnded) listOfNotNull(before?.let(::taken)) else emptyList()
    }

    override fun close() {
        codec.release()
        extractor.release()
    }

    private fun taken(output: Output): DecodedFrame = frame(output).also { codec.releaseOutputBuffer(output.buffer, false) }

    /** The next frame in display order; null at the end of the stream, and where the decoder gives up on what it was fed. */
    private fun next(): Output? {
        val patience = System.nanoTime() + PATIENCE_NS
        while (!outputEnded) {
            if (cancelled()) throw Cancelled()
            try {
                feed()
                val buffer = codec.dequeueOutputBuffer(info, WAIT_US)
                if (buffer == MediaCodec.INFO_OUTPUT_FORMAT_CHANGED) outputFormat = codec.outputFormat
                if (buffer < 0) {
                    if (System.nanoTime() > patience) throw VideoUnreadable("its decoder does not answer")
                    continue
                }
                answered = true
                outputEnded = info.flags and MediaCodec.BUFFER_FLAG_END_OF_STREAM != 0
                if (info.size > 0) return Output(buffer, info.presentationTimeUs)
                codec.releaseOutputBuffer(buffer, false)
            } catch (_: IllegalStateException) { // MediaCodec.CodecException is one
                restart()
                return null
            }
        }
        return null
    }

    /** Hands over coded pictures as long as the codec has room for them. */
    private fun feed() {
        while (!inputEnded) {
            val slot = codec.dequeueInputBuffer(0)
            if (slot < 0) return
            val buffer = codec.getInputBuffer(slot) ?: throw VideoUnreadable("its decoder gives no room for a coded picture")
            val size = try {
                extractor.readSampleData(buffer, 0)
            } catch (error: IllegalArgumentException) {
                throw VideoUnreadable("a coded picture is larger than its decoder takes", error)
            }
            inputEnded = size < 0
            if (inputEnded) {
                codec.queueInputBuffer(slot, 0, 0, 0, MediaCodec.BUFFER_FLAG_END_OF_STREAM)
            } else {
                codec.queueInputBuffer(slot, 0, size, extractor.sampleTime, 0)
                extractor.advance()
                position++
            }
        }
    }

    private fun flush() {
        if (answered) codec.flush() else restart()
        inputEnded = false
        outputEnded = false
        ahead = null
    }

    private fun restart() {
        codec.release()
        codec = newCodec()
        outputFormat = format
        answered = false
        inputEnded = false
        outputEnded = false
        ahead = null
    }

    private fun newCodec(): MediaCodec {
        val wanted = MediaFormat.createVideoFormat(format.getString(MediaFormat.KEY_MIME) ?: "", width, height)
        val name = MediaCodecList(MediaCodecList.REGULAR_CODECS).findDecoderForFormat(wanted)
            ?: throw VideoUnsupported("video in the format ${format.getString(MediaFormat.KEY_MIME)} of $width x $height pixels")
        format.setInteger(MediaFormat.KEY_COLOR_FORMAT, CodecCapabilities.COLOR_FormatYUV420Flexible)
        var made: MediaCodec? = null
        try {
            return MediaCodec.createByCodecName(name).also {
                made = it
                it.configure(format, null, null, 0)
                it.start()
            }
        } catch (error: IOException) {
            throw VideoUnreadable("the decoder $name does not start", error)
        } catch (error: IllegalStateException) { // CodecException is one: no free decoder, or a format that it refuses
            made?.release()
            throw VideoUnreadable("the decoder $name does not take it", error)
        } catch (error: IllegalArgumentException) {
            made?.release()
            throw VideoUnsupported("video that the decoder $name refuses")
        }
    }

    private val width: Int get() = format.getInteger(MediaFormat.KEY_WIDTH)
    private val height: Int get() = format.getInteger(MediaFormat.KEY_HEIGHT)

    /** Upright RGB of an output that the codec still holds. */
    private fun frame(output: Output): DecodedFrame {
        colours.refuseHdr(outputFormat)
        val image = codec.getOutputImage(output.buffer) ?: throw VideoUnsupported("video that its decoder keeps to itself")
        if (image.format != ImageFormat.YUV_420_888) throw VideoUnsupported("video with more than 8 bits a colour")
        val (y, u, v) = image.planes
        val crop = image.cropRect
        val planes = Planes(
            width = crop.width(),
            height = crop.height(),
            y = y.buffer,
            yRowStride = y.rowStride,
            yPixelStride = y.pixelStride,
            u = u.buffer,
            v = v.buffer,
            uvRowStride = u.rowStride,
            uvPixelStride = u.pixelStride,
            matrix = colours.matrix(outputFormat),
            fullRange = colours.fullRange(outputFormat),
            rotation = colours.rotation,
            cropLeft = crop.left,
            cropTop = crop.top,
        )
        return DecodedFrame(output.timeUs, planes.toRgb()) // copied: the image goes back with the buffer
    }

    private companion object {
        const val WAIT_US = 10_000L
        const val PATIENCE_NS = 10_000_000_000L
    }
}
