package org.mobilevideogpt.core

/**
 * Indices, counted as decoded, of the frames that the release samples from a clip of [total] frames at [fps] frames a second.
 *
 * Candidates are every `max(1, round(fps))`-th frame from 0, where a half rounds to the even number. More than [frames]: those at
 * NumPy's `linspace`, truncated; fewer: up to [frames] frames from 0 with an even stride that reaches into the whole clip.
 */
fun pickFrames(total: Int, fps: Double, frames: Int = FRAMES): IntArray {
    require(total >= 1) { "a clip has at least one frame" }
    require(fps.isFinite()) { "$fps is no number of frames a second" }
    require(frames >= 2) { "at least two frames are sampled" }
    val every = Math.rint(fps).coerceIn(1.0, total.toDouble()).toInt() // beyond the clip's length all steps are the same
    val candidates = (total - 1) / every + 1
    if (candidates >= frames) {
        val step = (candidates - 1).toDouble() / (frames - 1)
        return IntArray(frames) { i -> every * if (i == frames - 1) candidates - 1 else (i * step).toInt() }
    }
    val count = minOf(frames, total)
    val stride = if (count > 1) maxOf(1, (total - 1) / (count - 1)) else 1
    return IntArray(count) { it * stride }
}
