package org.mobilevideogpt.core

/** Frames that the image encoder sees. */
const val FRAMES = 16

/** Key frames are chosen within chunks of 8 frames. */
const val CHUNKS = 2

private const val IMAGE_SIZE = 224 // pixels, both sides
private const val CHUNK_KEY_FRAMES = 4
private const val IMAGE_POOL_SIDE = 12 // ET-Proj pools the 14x14 image grid to 12x12
private const val VIDEO_FRAME_POOL_SIDE = 7 // each key frame's 14x14 grid is averaged to 7x7
private const val VIDEO_POOL_SIDE = 7 // ET-Proj pools a chunk's 4 x 49 tokens to 7x7
private const val ETP = "etp"

/** CLIP's vision tower. */
data class ClipConfig(
    val width: Int,
    val depth: Int,
    val heads: Int,
    val mlpWidth: Int,
    val patchSize: Int,
    val layerNormEps: Double,
) {
    val patches: Int get() = (IMAGE_SIZE / patchSize) * (IMAGE_SIZE / patchSize)
}

/** The VideoMamba encoder. */
data class VideoMambaConfig(
    val width: Int,
    val depth: Int,
    val dInner: Int,
    val dState: Int,
    val dConv: Int,
    val dtRank: Int,
    val patchSize: Int,
    val rmsNormEps: Double,
) {
    val patches: Int get() = (IMAGE_SIZE / patchSize) * (IMAGE_SIZE / patchSize)
}

/** [kind] is `etp`, `linear` or `mlp`. */
data class ProjectorConfig(val kind: String, val depth: Int, val inWidth: Int, val outWidth: Int)

/** The Qwen2 decoder. */
data class DecoderConfig(
    val width: Int,
    val layers: Int,
    val heads: Int,
    val kvHeads: Int,
    val headDim: Int,
    val ffnWidth: Int,
    val vocab: Int,
    val tied: Boolean,
    val ropeTheta: Double,
    val rmsNormEps: Double,
    val maxPositions: Int,
)

/** The sizes of the checkpoint that a bundle was built from: the manifest's `model`. */
data class ModelConfig(
    val clip: ClipConfig,
    val videomamba: VideoMambaConfig,
    val imageProjector: ProjectorConfig,
    val videoProjector: ProjectorConfig,
    val decoder: DecoderConfig,
    val topk: Boolean,
    val stopIds: List<Int>,
) {
    /** Image tokens of one frame. */
    val imageTokensPerFrame: Int get() = if (imageProjector.kind == ETP) IMAGE_POOL_SIDE * IMAGE_POOL_SIDE else clip.patches

    /** Video tokens of one chunk of 8 frames. */
    val videoTokensPerChunk: Int
        get() = if (videoProjector.kind == ETP) {
            VIDEO_POOL_SIDE * VIDEO_POOL_SIDE
        } else {
            CHUNK_KEY_FRAMES * VIDEO_FRAME_POOL_SIDE * VIDEO_FRAME_POOL_SIDE
        }

    /** Tokens that replace the placeholders of a prompt: 2,402 in the release. */
    val visualTokens: Int get() = FRAMES * imageTokensPerFrame + CHUNKS * videoTokensPerChunk
}

internal fun Fields.modelConfig(): ModelConfig = ModelConfig(
    clip = fields("clip") {
        ClipConfig(int("width"), int("depth"), int("heads"), int("mlp_width"), int("patch_size", 1), number("layer_norm_eps"))
    },
    videomamba = fields("videomamba") {
        VideoMambaConfig(
            int("width"), int("depth"), int("d_inner"), int("d_state"), int("d_conv"), int("dt_rank"), int("patch_size", 1),
            number("rms_norm_eps"),
        )
    },
    imageProjector = fields("image_projector") { projector() },
    videoProjector = fields("video_projector") { projector() },
    decoder = fields("decoder") {
        DecoderConfig(
            int("width"), int("layers"), int("heads"), int("kv_heads"), int("head_dim"), int("ffn_width"), int("vocab"), flag("tied"),
            number("rope_theta"), number("rms_norm_eps"), int("max_positions"),
        )
    },
    topk = flag("topk"),
    stopIds = list("stop_ids") { value, where -> Fields.int(value, where) },
)

private fun Fields.projector() = ProjectorConfig(text("kind"), int("depth"), int("in_width"), int("out_width"))
