package org.mobilevideogpt.core.android

import android.media.MediaCodecInfo.CodecProfileLevel
import android.media.MediaFormat
import org.mobilevideogpt.core.ColorMatrix
import org.mobilevideogpt.core.VideoGptException.VideoUnsupported

/**
 * How a track's pixels become RGB and stand upright.
 *
 * What the container says comes first, what the decoder says second: where a stream says nothing, decoders fill in a guess by its size,
 * and a container that says something knows better. Unspecified is BT.601 in limited range, as in ffmpeg.
 */
internal class Colours(private val track: MediaFormat) {

    /** Clockwise degrees by which a frame is turned to stand upright. */
    val rotation: Int = Math.floorMod(Math.round((track.integer(MediaFormat.KEY_ROTATION) ?: 0) / 90f) * 90, 360)

    init {
        refuseHdr(track)
        val profiles = DEEP_PROFILES[track.getString(MediaFormat.KEY_MIME)].orEmpty()
        if (track.integer(MediaFormat.KEY_PROFILE) in profiles) throw VideoUnsupported("video with more than 8 bits a colour")
    }

    /** Also of the decoder's output: a container need not know. */
    fun refuseHdr(format: MediaFormat) {
        val transfer = format.integer(MediaFormat.KEY_COLOR_TRANSFER)
        if (transfer == MediaFormat.COLOR_TRANSFER_ST2084 || transfer == MediaFormat.COLOR_TRANSFER_HLG) throw VideoUnsupported("HDR video")
    }

    fun matrix(decoded: MediaFormat): ColorMatrix = when (said(decoded, MediaFormat.KEY_COLOR_STANDARD)) {
        MediaFormat.COLOR_STANDARD_BT709 -> ColorMatrix.BT709
        MediaFormat.COLOR_STANDARD_BT2020 -> ColorMatrix.BT2020
        else -> ColorMatrix.BT601
    }

    fun fullRange(decoded: MediaFormat): Boolean = said(decoded, MediaFormat.KEY_COLOR_RANGE) == MediaFormat.COLOR_RANGE_FULL

    private fun said(decoded: MediaFormat, key: String): Int? = track.integer(key)?.takeIf { it > 0 } ?: decoded.integer(key)

    private companion object {
        /** Profiles of 10 and 12 bits, by type. A container need not name one: then the decoder's output tells. */
        val DEEP_PROFILES = mapOf(
            "video/avc" to setOf(CodecProfileLevel.AVCProfileHigh10),
            "video/hevc" to setOf(
                CodecProfileLevel.HEVCProfileMain10,
                CodecProfileLevel.HEVCProfileMain10HDR10,
                CodecProfileLevel.HEVCProfileMain10HDR10Plus,
            ),
            "video/x-vnd.on2.vp9" to setOf(
                CodecProfileLevel.VP9Profile2,
                CodecProfileLevel.VP9Profile3,
                CodecProfileLevel.VP9Profile2HDR,
                CodecProfileLevel.VP9Profile3HDR,
                CodecProfileLevel.VP9Profile2HDR10Plus,
                CodecProfileLevel.VP9Profile3HDR10Plus,
            ),
            "video/av01" to setOf(
                CodecProfileLevel.AV1ProfileMain10,
                CodecProfileLevel.AV1ProfileMain10HDR10,
                CodecProfileLevel.AV1ProfileMain10HDR10Plus,
            ),
        )
    }
}

/** A number of a format; null where it is missing. */
internal fun MediaFormat.integer(key: String): Int? = if (containsKey(key)) getInteger(key) else null
