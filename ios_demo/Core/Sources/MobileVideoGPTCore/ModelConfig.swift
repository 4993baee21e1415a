import Foundation

/// The sizes of the checkpoint that a host needs: `export/config.py`'s, of which the others are checked to be there and not kept.
public struct ModelConfig: Sendable, Equatable {
    /// D, the decoder's width.
    public let width: Int
    /// Ids that the embedding table holds.
    public let vocabulary: Int
    public let maxPositions: Int
    public let stopIDs: [Int]

    init(_ place: Place) throws {
        let all = try place.object("clip", "videomamba", "image_projector", "video_projector", "decoder", "topk", "stop_ids")
        let clip = try all["clip"].object("width", "depth", "heads", "mlp_width", "patch_size", "layer_norm_eps")
        for key in ["width", "depth", "heads", "mlp_width", "patch_size"] { _ = try clip[key].int(from: 1) }
        _ = try clip["layer_norm_eps"].double()
        let mamba = try all["videomamba"].object(
            "width", "depth", "d_inner", "d_state", "d_conv", "dt_rank", "patch_size", "rms_norm_eps")
        for key in ["width", "depth", "d_inner", "d_state", "d_conv", "dt_rank", "patch_size"] { _ = try mamba[key].int(from: 1) }
        _ = try mamba["rms_norm_eps"].double()
        for name in ["image_projector", "video_projector"] {
            let projector = try all[name].object("kind", "depth", "in_width", "out_width")
            _ = try projector["kind"].choice("etp", "linear", "mlp")
            for key in ["depth", "in_width", "out_width"] { _ = try projector[key].int(from: 1) }
        }
        let decoder = try all["decoder"].object(
            "width", "layers", "heads", "kv_heads", "head_dim", "ffn_width", "vocab", "tied", "rope_theta", "rms_norm_eps", "max_positions")
        for key in ["layers", "heads", "kv_heads", "head_dim", "ffn_width"] { _ = try decoder[key].int(from: 1) }
        for key in ["rope_theta", "rms_norm_eps"] { _ = try decoder[key].double() }
        _ = try decoder["tied"].bool()
        width = try decoder["width"].int(from: 1)
        vocabulary = try decoder["vocab"].int(from: 1)
        maxPositions = try decoder["max_positions"].int(from: 1)
        _ = try all["topk"].bool()
        stopIDs = try all["stop_ids"].list { try $0.int() }
    }
}
