package org.mobilevideogpt.core

/** Where decoding can begin: the [position] of a coded picture in decode order, and when it is shown. */
class Keyframe(val position: Int, val timeUs: Long)

/**
 * Every frame of a video in display order, known without decoding one: when each is shown ([timesUs], microseconds) and where its coded
 * picture stands in decode order ([positions]). The twin of `runtime_py/video_index.py`.
 *
 * What stands before the first keyframe, or is shown before it, refers to pictures of a part that was cut away and is no frame.
 */
class FrameIndex private constructor(
    val timesUs: LongArray,
    val positions: IntArray,
    /** In decode order. */
    val keyframes: List<Keyframe>,
    private val declaredFps: Double?,
) {
    /** The number of frames. */
    val size: Int get() = timesUs.size

    /** When the last frame's time is over, if it is shown as long as the one before: a container's samples do not say. */
    private val endUs: Long = timesUs.last() + if (size > 1) timesUs[size - 1] - timesUs[size - 2] else 0

    /** When a frame is shown, in seconds from the first frame on (whose own timestamp need not be 0). */
    fun timeS(frame: Int): Double = (timesUs[frame] - timesUs[0]) / MICROSECONDS

    /**
     * Average frames a second: the frames over their time on screen.
     *
     * Timestamps are rounded, to microseconds or, in Matroska files, to milliseconds. Where the rate differs by no more than that from
     * the one that the container declares, or from a multiple of a half (where rounding a rate to a whole number turns), that is it.
     */
    val fps: Double = averageRate()

    /**
     * The keyframe from which a frame decodes: the last one that neither follows it nor is shown after it. A frame that is coded after a
     * keyframe but shown before it (open GOP) also refers to the group before.
     */
    fun keyframeFor(frame: Int): Int {
        var number = keyframeAt(positions[frame])
        while (number > 0 && keyframes[number].timeUs > timesUs[frame]) number--
        return number
    }

    /** The last keyframe at or before a position in decode order, the first one where there is none. */
    fun keyframeAt(position: Int): Int = maxOf(0, keyframes.indexOfLast { it.position <= position })

    /** The frame whose timestamp is nearest. */
    fun nearest(timeUs: Long): Int {
        val found = timesUs.binarySearch(timeUs)
        if (found >= 0) return found
        val after = -found - 1
        return when {
            after == 0 -> 0
            after == size -> size - 1
            timeUs - timesUs[after - 1] <= timesUs[after] - timeUs -> after - 1
            else -> after
        }
    }

    private fun averageRate(): Double {
        val shownUs = endUs - timesUs[0]
        if (shownUs <= 0) return declaredFps ?: 1.0
        val measured = size * MICROSECONDS / shownUs
        val tickUs = if (timesUs.all { it % MILLISECOND_US == 0L }) MILLISECOND_US else 1L
        val exact = listOfNotNull(declaredFps, Math.rint(2 * measured) / 2)
        return exact.firstOrNull { it > 0 && Math.abs(size * MICROSECONDS / it - shownUs) <= ROUNDED_STAMPS * tickUs } ?: measured
    }

    companion object {
        private const val MICROSECONDS = 1e6 // a second
        private const val MILLISECOND_US = 1000L
        private const val ROUNDED_STAMPS = 3 // the first, the last, and the last but one, of which the last's duration is made

        /**
         * The index of coded pictures in decode order. Where none is marked as a keyframe, decoding begins with the first.
         *
         * @param timesUs when each is shown.
         * @param isKeyframe whether decoding can begin with it.
         * @param declaredFps frames a second as the container has them, null where it has none.
         * @param name the video, for the message.
         * @throws VideoGptException.VideoUnreadable there is no frame.
         */
        fun of(timesUs: LongArray, isKeyframe: BooleanArray, declaredFps: Double?, name: String): FrameIndex {
            val marked = timesUs.indices.filter { isKeyframe[it] }.map { Keyframe(it, timesUs[it]) }
            val shown = marked.firstOrNull()
                ?.let { first -> timesUs.indices.filter { it >= first.position && timesUs[it] >= first.timeUs } }
                ?: timesUs.indices.toList()
            if (shown.isEmpty()) throw VideoGptException.VideoUnreadable("$name holds no whole frame")
            val inDisplayOrder = shown.sortedBy { timesUs[it] }
            val times = LongArray(shown.size) { timesUs[inDisplayOrder[it]] }
            val keyframes = marked.ifEmpty { listOf(Keyframe(0, times[0])) }
            return FrameIndex(times, inDisplayOrder.toIntArray(), keyframes, declaredFps)
        }
    }
}
