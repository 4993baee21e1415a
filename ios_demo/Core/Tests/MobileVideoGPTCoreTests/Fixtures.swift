import Foundation
import XCTest

@testable import MobileVideoGPTCore

/// A small manifest of the same form as a real one: 4 wide, 2 x 8 frames of 8 x 8 pixels, 22 visual tokens, ids of bytes and four more.
enum Fixture {
    static let visualTokens = 22
    static let stops = [258, 259]

    static func manifest(context: Int = 400, _ change: (inout [String: JSONValue]) -> Void = { _ in }) throws -> Manifest {
        try Manifest(data: manifestData(context: context, change), hashing: PlainHashing())
    }

    /// `change` alters the JSON before it is signed.
    static func manifestData(
        context: Int = 400, _ change: (inout [String: JSONValue]) -> Void = { _ in }, sign: Bool = true
    ) throws -> Data {
        guard case .object(var members) = try JSONValue(parsing: Data(text(context: context).utf8)) else { fatalError("an object") }
        change(&members)
        if sign { members["manifest_sha256"] = .string(PlainHashing().hex(Array(JSONValue.object(members).canonical.utf8))) }
        return Data(JSONValue.object(members).canonical.utf8)
    }

    private static func text(context: Int) -> String {
        func spec(_ name: String, _ shape: String, _ dtype: String = "float32") -> String {
            #"{"name":"\#(name)","shape":\#(shape),"dtype":"\#(dtype)","description":"é \" \\ \t"}"#
        }
        func graph(_ name: String, _ inputs: [String], _ output: String, axes: String = "") -> String {
            """
            "\(name)":{"name":"\(name)","file":"\(name).mlpackage","sha256":"\(String(repeating: "0", count: 64))","bytes":7,
            "inputs":[\(inputs.joined(separator: ","))],"outputs":[\(output)],"dynamic_axes":[\(axes)],
            "schemes":[{"scheme":"int8","weights":5,"bytes":6}],"excluded":{},"activations":"float16","delegated":1.0,"operators":[],
            "peak_memory_bytes":9,"delegate":"coreml"}
            """
        }
        let axis = #"{"name":"tokens","minimum":1,"maximum":50}"#
        let graphs = [
            graph("image_encoder", [spec("pixels", "[16,3,8,8]")], spec("features", "[16,2,4]")),
            graph("frame_scorer", [spec("features", "[2,8,2,4]")], spec("scores", "[2,8]")),
            graph("video_encoder", [spec("pixels", "[1,8,3,8,8]")], spec("tokens", "[8,2,4]")),
            graph("image_projector", [spec("features", "[16,2,4]")], spec("tokens", "[16,4]")),
            graph("video_projector", [spec("tokens", "[8,2,4]")], spec("video_tokens", "[6,4]")),
            graph("token_embedding", [spec("ids", #"["tokens"]"#, "int32")], spec("embeds", #"["tokens",4]"#), axes: axis),
            graph(
                "decoder", [spec("embeds", #"["tokens",4]"#), spec("position", "[1]", "int32"), spec("last", "[1]", "int32")],
                spec("logits", "[260]"), axes: axis),
        ]
        return """
            {"schema_version":3,"target":"coreml","recipe":"int4","recipe_rules":{"rest":"fp32"},"quant_overrides":{},"kernels":"stock",
            "custom_operators":[],"verified":true,"checkpoint_name":"tiny","checkpoint_fingerprint":"f",
            "model":{"clip":{"width":1,"depth":1,"heads":1,"mlp_width":1,"patch_size":1,"layer_norm_eps":1e-05},
            "videomamba":{"width":1,"depth":1,"d_inner":1,"d_state":1,"d_conv":1,"dt_rank":1,"patch_size":1,"rms_norm_eps":1e-05},
            "image_projector":{"kind":"etp","depth":2,"in_width":1,"out_width":4},
            "video_projector":{"kind":"etp","depth":2,"in_width":1,"out_width":4},
            "decoder":{"width":4,"layers":1,"heads":1,"kv_heads":1,"head_dim":1,"ffn_width":1,"vocab":260,"tied":true,
            "rope_theta":1000000.0,"rms_norm_eps":1e-06,"max_positions":32768},"topk":true,"stop_ids":[258,259]},
            "graphs":{\(graphs.joined(separator: ","))},
            "decoder":{"interface":"coreml_state","max_context":\(context),"details":{"functions":[{"name":"prefill_32","tokens":32},
            {"name":"prefill_8","tokens":8},{"name":"decode","tokens":1}],"slots":\((context + 31) / 32 * 32),"mask":"inside"}},
            "preprocessing":{"frames":16,"image_size":8,"image_mean":[0.5,0.25,0.125],"image_std":[0.5,0.5,0.5],
            "video_mean":[0.1,0.2,0.3],"video_std":[0.5,0.5,0.5],"chunk_frames":8,"key_frames_per_chunk":4,"topk":true,
            "tie_tolerance":1e-05,"image_resize":"bicubic","video_resize":"bilinear"},
            "prompt":{"system":"<|im_start|>s<|im_end|>\\n","user":"<|im_start|>u\\n","image":"<image>","end_of_turn":"<|im_end|>",
            "assistant":"<|im_start|>a\\n","placeholder_id":-200,"stop_ids":[258,259]},
            "parity":[{"stage":"last_logits","own_error":0.0,"chained_error":0.1,"threshold_own":0.01,"threshold_chained":0.5,
            "metric":"row","passed":true,"note":""}],"accuracy":{},
            "files":{"tokenizer.json":{"sha256":"\(String(repeating: "1", count: 64))",
            "bytes":3}},"expected_memory_bytes":1000,"bits_per_weight":4.5,"bundle_bytes":52,"tool_versions":{"torch":"2"},
            "created":"2026-01-31T12:00:00Z","licenses":{}}
            """
    }
}

/// Ids are bytes; 256 to 259 are `<|im_start|>`, `<image>`, `<|im_end|>` and `<|endoftext|>`.
struct ByteTokenizer: Tokenizing {
    static let special = ["<|im_start|>", "<image>", "<|im_end|>", "<|endoftext|>"].map { Array($0.utf8) }

    func encode(_ text: String) -> [Int] {
        var (rest, ids) = (Array(text.utf8)[...], [Int]())
        while let first = rest.first {
            if let number = Self.special.firstIndex(where: { rest.starts(with: $0) }) {
                ids.append(256 + number)
                rest = rest.dropFirst(Self.special[number].count)
            } else {
                ids.append(Int(first))
                rest = rest.dropFirst()
            }
        }
        return ids
    }

    func decode(_ ids: [Int]) -> String { String(decoding: ids.compactMap { UInt8(exactly: $0) }, as: UTF8.self) }
}

struct Broken: Error {}

/// A backend whose logits depend on every value in its cache up to the last token, and on nothing else: two ways to the same conversation
/// must give exactly the same. It notes what is asked of it, and can be made to fail.
final class Spy: GraphBackend {
    let manifest: Manifest
    var maxContext: Int
    let name = "spy"
    let versions = ["spy": "1"]
    var decoded: [Int] = []  // tokens of each decoder call
    var logits: [[Float]] = []
    var ran: [GraphName] = []
    var loaded: Set<GraphName> = []
    var failAt = -1  // decoder call
    var scores: [Float] = (0..<16).map { Float(($0 * 5) % 16) }
    var seconds = 0.0  // what every call takes, by `clock`
    var now = 0.0
    private var cache: [[Float]] = []

    init(_ manifest: Manifest) {
        self.manifest = manifest
        maxContext = manifest.decoder.maxContext
    }

    func clock() -> Double { now }

    func run(_ graph: GraphName, _ input: FloatTensor) throws -> FloatTensor {
        loaded.insert(graph)
        ran.append(graph)
        now += seconds
        let shape = manifest.graph(graph).outputs[0].shape.map { if case .size(let size) = $0 { size } else { 0 } }
        if graph == .frameScorer { return FloatTensor(shape: scores.count == 16 ? shape : [scores.count], data: scores) }
        let sum = input.data.enumerated().reduce(Float(0)) { $0 + $1.element * Float($1.offset % 7 + 1) }
        return FloatTensor(shape: shape, data: (0..<shape.reduce(1, *)).map { sum * 1e-3 + Float($0) })
    }

    func embed(_ ids: [Int]) throws -> FloatTensor {
        ran.append(.tokenEmbedding)
        now += seconds
        return FloatTensor(shape: [ids.count, 4], data: ids.flatMap { id in (0..<4).map { Float(id * 4 + $0) } })
    }

    func decode(_ embeds: FloatTensor, at position: Int) throws -> [Float] {
        precondition(position <= cache.count && position + embeds.rows <= manifest.decoder.slots)
        loaded.insert(.decoder)
        now += seconds
        cache.removeSubrange(position...)
        for row in 0..<embeds.rows { cache.append(embeds.slice(row..<row + 1).data) }
        decoded.append(embeds.rows)
        if decoded.count - 1 == failAt { throw Broken() }  // the cache is written, and then the interruption arrives
        var state: UInt64 = 17
        for value in cache.joined() { state = (state ^ UInt64(value.bitPattern)) &* 0x100_0000_01b3 &+ 1 }
        var generator = SplitMix64(state: state)
        // Printable ASCII is likelier, the stop ids are as likely as others.
        logits.append((0..<260).map { Float.random(in: 0..<1, using: &generator) + ((97...122).contains($0) ? 0.5 : 0) })
        return logits[logits.count - 1]
    }

    func load(_ graphs: [GraphName]) { loaded.formUnion(graphs) }

    func release(_ graphs: [GraphName]) {
        loaded.subtract(graphs)
        if graphs.contains(.decoder) { cache = [] }
    }

    func forget() {
        (decoded, logits, ran) = ([], [], [])
        (failAt, maxContext) = (-1, manifest.decoder.maxContext)
    }
}

/// A sampler that answers these ids, whatever the logits; then it fails.
final class Says: TokenSampler {
    private var ids: [Int]

    init(_ ids: Int...) { self.ids = ids }

    func callAsFunction(_ logits: [Float]) throws -> Int {
        guard !ids.isEmpty else { throw Broken() }
        return ids.removeFirst()
    }
}

/// A folder that is gone after the test.
func temporaryFolder(_ test: XCTestCase) throws -> URL {
    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    test.addTeardownBlock { try? FileManager.default.removeItem(at: folder) }
    return folder
}

/// The bundle that the environment names.
func bundleFolder() throws -> URL {
    guard let path = ProcessInfo.processInfo.environment["BUNDLE"] else {
        throw XCTSkip("the environment variable BUNDLE names no bundle: `python -m export.build --target coreml` writes one")
    }
    return URL(filePath: path, directoryHint: .isDirectory)
}

/// Fails unless `work` throws this error.
func assertThrows(
    _ expected: VideoGPTError, _ work: @autoclosure () throws -> Any, file: StaticString = #filePath, line: UInt = #line
) {
    XCTAssertThrowsError(try work(), file: file, line: line) { XCTAssertEqual($0 as? VideoGPTError, expected, file: file, line: line) }
}
