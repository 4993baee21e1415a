package org.mobilevideogpt.core.android

import android.content.Context
import android.media.MediaExtractor
import android.media.MediaFormat
import android.net.Uri
import java.io.File
import java.io.IOException
import org.mobilevideogpt.core.FrameIndex
import org.mobilevideogpt.core.Pixels
import org.mobilevideogpt.core.Preprocessing
import org.mobilevideogpt.core.RgbImage
import org.mobilevideogpt.core.VideoGptException.Cancelled
import org.mobilevideogpt.core.VideoGptException.NoVideoTrack
import org.mobilevideogpt.core.VideoGptException.VideoUnreadable
import org.mobilevideogpt.core.clipPixels
import org.mobilevideogpt.core.clipResize
import org.mobilevideogpt.core.pickFrames
import org.mobilevideogpt.core.videoPixels
import org.mobilevideogpt.core.videoResize

/**
 * The sampled frames of a video, already of the encoders' size: 16 whole frames of a 4K video take 400 MB, these 5 MB.
 *
 * [clips] and [squashed] are upright RGB [224, 224, 3], as the image encoder's and as the video encoder's resizer makes them; [indices] their numbers, counted as shown; [timesS] seconds from the video's first frame; [fps] its average;
 * [total] its frames; [codec] the type of the track (`video/avc`, ...); [lost] how many could not be decoded and gave way to their
 * nearest neighbour.
 */
class VideoFrames(
    val clips: List<RgbImage>,
    val squashed: List<RgbImage>,
    val indices: IntArray,
    val timesS: DoubleArray,
    val fps: Double,
    val total: Int,
    val codec: String,
    val lost: Int,
) {
    /** What both encoders take, [16, 3, 224, 224] each. The resizers leave images of their size as they are. */
    fun pixels(p: Preprocessing): Pixels = Pixels(clipPixels(clips, p), videoPixels(squashed, p))
}

/**
 * From a video file to the frames that the model samples: upright RGB, decoded from the nearest keyframe only. The twin of
 * `runtime_py/video.py`, with Android's own extractor and decoders.
 *
 * The timestamps of all coded pictures are read first, which takes no decoding; then those that [pickFrames] asks for are decoded, with
 * what their group of pictures needs. HDR and more than 8 bits a colour are refused: tone mapping is not the model's. An mp4's edit
 * list is the extractor's to honour.
 */
class VideoReader private constructor(private val name: String, private val setDataSource: (MediaExtractor) -> Unit) {

    /** A video that another app or the system's picker shares. */
    constructor(context: Context, uri: Uri) : this("the video", { it.setDataSource(context, uri, null) })

    constructor(file: File) : this(file.name, { it.setDataSource(file.path) })

    /**
     * Samples up to 16 frames by the release's rule. Slow: call it from a thread of its own.
     *
     * @param p of the bundle: how many frames, and of which size.
     * @param onFrame called with the number of frames that are there already, for a progress bar.
     * @param cancelled asked often; true ends with [Cancelled].
     * @throws org.mobilevideogpt.core.VideoGptException one line: no video, none that can be decoded, HDR.
     */
    fun read(p: Preprocessing, onFrame: (Int) -> Unit = {}, cancelled: () -> Boolean = { false }): VideoFrames {
        val first = open()
        val (index, format) = try {
            val format = first.getTrackFormat(first.sampleTrackIndex.takeIf { it >= 0 } ?: videoTrack(first))
            buildIndex(first, format, cancelled) to format
        } finally {
            first.release()
        }
        val picked = pickFrames(index.size, index.fps, p.frames)
        val found = try {
            Decoder(::open, index, format, cancelled).use { decode(it, index, picked, p.imageSize, onFrame) }
        } catch (error: IllegalStateException) { // what a codec throws that broke down
            throw VideoUnreadable(name, error)
        }
        val numbers = IntArray(found.size) { index.nearest(found[it].timeUs) }
        return VideoFrames(
            clips = found.map { it.clip },
            squashed = found.map { it.squashed },
            indices = numbers,
            timesS = DoubleArray(found.size) { index.timeS(numbers[it]) },
            fps = index.fps,
            total = index.size,
            codec = mime(format),
            lost = found.indices.count { numbers[it] != picked[it] },
        )
    }

    /** An extractor at the beginning of the video track, which is selected. */
    private fun open(): MediaExtractor {
        val extractor = MediaExtractor()
        try {
            setDataSource(extractor)
            extractor.selectTrack(videoTrack(extractor))
            return extractor
        } catch (error: IOException) {
            extractor.release()
            throw VideoUnreadable(name, error)
        } catch (error: IllegalArgumentException) {
            extractor.release()
            throw VideoUnreadable(name, error)
        } catch (error: SecurityException) {
            extractor.release()
            throw VideoUnreadable("$name is not shared with this app any more", error)
        } catch (error: NoVideoTrack) {
            extractor.release()
            throw error
        }
    }

    private fun videoTrack(extractor: MediaExtractor): Int =
        (0 until extractor.trackCount).firstOrNull { mime(extractor.getTrackFormat(it)).startsWith("video/") } ?: throw NoVideoTrack(name)

    private fun mime(format: MediaFormat): String = format.getString(MediaFormat.KEY_MIME).orEmpty()

    /** Reads all timestamps once, from the beginning. */
    private fun buildIndex(extractor: MediaExtractor, format: MediaFormat, cancelled: () -> Boolean): FrameIndex {
        val times = ArrayList<Long>()
        val keys = ArrayList<Boolean>()
        var more = extractor.sampleTrackIndex >= 0 // -1: there is no sample
        while (more) {
            if (cancelled()) throw Cancelled()
            times += extractor.sampleTime
            keys += extractor.sampleFlags and MediaExtractor.SAMPLE_FLAG_SYNC != 0
            more = extractor.advance()
        }
        return FrameIndex.of(times.toLongArray(), keys.toBooleanArray(), declaredFps(format), name)
    }

    /** Whole or broken, as the extractor has it: a format refuses to read one as the other. */
    private fun declaredFps(format: MediaFormat): Double? {
        if (!format.containsKey(MediaFormat.KEY_FRAME_RATE)) return null
        return try {
            format.getInteger(MediaFormat.KEY_FRAME_RATE).toDouble()
        } catch (_: ClassCastException) {
            format.getFloat(MediaFormat.KEY_FRAME_RATE).toDouble()
        }
    }

    private class Sampled(val timeUs: Long, val clip: RgbImage, val squashed: RgbImage)

    /** Frames by ascending number; a lost one gives way to its nearest neighbour. */
    private fun decode(decoder: Decoder, index: FrameIndex, numbers: IntArray, size: Int, onFrame: (Int) -> Unit): List<Sampled> {
        val found = numbers.mapIndexed { i, number ->
            val frame = frame(decoder, index, number)
            onFrame(i + 1)
            frame?.let { Sampled(it.timeUs, clipResize(it.image, size), videoResize(it.image, size)) }
        }
        val decoded = found.indices.filter { found[it] != null }
        if (decoded.isEmpty()) throw VideoUnreadable("no frame of $name can be decoded")
        return found.indices.map { i -> found[i] ?: found[decoded.minBy { Math.abs(it - i) }]!! }
    }

    /**
     * The frame of this number; where it is lost the nearest one that decodes; null where none does. A frame that does not come from its
     * keyframe may come from an earlier one: some streams mark pictures as keyframes after which a decoder still needs a while.
     */
    private fun frame(decoder: Decoder, index: FrameIndex, number: Int): DecodedFrame? {
        val wanted = index.timesUs[number]
        val nearest = index.keyframeFor(number)
        if (index.keyframes[nearest].position > decoder.position) decoder.goTo(index.keyframes[nearest])
        val neighbours = ArrayList(decoder.decodeUpTo(wanted))
        for (keyframe in setOf(nearest, maxOf(0, nearest - 1), index.keyframeAt(index.positions[number] - FAR_BACK))) {
            if (neighbours.any { it.timeUs == wanted }) break
            decoder.goTo(index.keyframes[keyframe])
            neighbours += decoder.decodeUpTo(wanted)
        }
        return neighbours.minByOrNull { Math.abs(it.timeUs - wanted) }
    }

    private companion object {
        const val FAR_BACK = 300 // coded pictures: the longest group of pictures that common encoders make by default is 250
    }
}
