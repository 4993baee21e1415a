import Foundation

/// All that `manifest.json` says of a bundle (schema 3), read as strictly as `export/manifest.py` reads it. Sizes are in bytes.
public struct Manifest: Sendable, Equatable {
    public static let schemaVersion = 3
    public static let fileName = "manifest.json"

    public let target: String
    public let recipe: String
    public let kernels: String
    public let customOperators: [String]
    /// False: built with --no-verify, nothing shows that it computes what the model computes.
    public let verified: Bool
    public let checkpointName: String
    public let model: ModelConfig
    public let graphs: [GraphName: GraphEntry]
    public let decoder: DecoderInterface
    public let preprocessing: Preprocessing
    public let prompt: PromptTemplate
    public let parity: [StageParity]
    public let accuracy: [String: Double]
    /// Every file of the bundle but the graphs, the model card, the list of hashes and the manifest.
    public let files: [String: FileEntry]
    public let expectedMemoryBytes: Int
    public let bitsPerWeight: Double
    public let bundleBytes: Int
    public let toolVersions: [String: String]
    /// A UTC time like 2026-01-31T12:00:00Z.
    public let created: String
    public let licenses: [String: String]
    /// SHA-256 of the manifest's canonical form without this entry.
    public let digest: String

    /// The manifest in JSON text. Throws `VideoGPTError` unless all of it is as declared here.
    public init(data: Data, hashing: any Hashing) throws {
        do {
            let value = try JSONValue(parsing: data)
            try Self.checkVersion(value)
            try self.init(Place(value))
            try Self.checkDigest(value, digest, hashing)
        } catch let error as JSONError {
            throw VideoGPTError.invalidManifest(error.line)
        }
    }

    /// Tokens that a clip takes: 2,402 in the release.
    public var visualTokens: Int {
        [GraphName.imageProjector, .videoProjector].reduce(0) { sum, name in
            if case .size(let rows)? = graph(name).outputs.first?.shape.first { return sum + rows }
            return sum
        }
    }

    /// A graph's entry: reading checked that all seven are there.
    public func graph(_ name: GraphName) -> GraphEntry {
        guard let entry = graphs[name] else { preconditionFailure("a manifest has all graphs") }
        return entry
    }

    private static func checkVersion(_ value: JSONValue) throws {
        guard case .object(let members) = value else { throw Place(value).refusal("an object") }
        let found = try Place(members["schema_version"] ?? .null, path: "schema_version").int()
        if found > schemaVersion { throw VideoGPTError.newerSchema(found: found, read: schemaVersion) }
        if found < schemaVersion { throw VideoGPTError.olderSchema(found: found, read: schemaVersion) }
    }

    private static func checkDigest(_ value: JSONValue, _ digest: String, _ hashing: any Hashing) throws {
        guard case .object(var members) = value else { return }
        members["manifest_sha256"] = nil
        guard hashing.hex(Array(JSONValue.object(members).canonical.utf8)) == digest else {
            throw JSONError(line: "manifest_sha256 does not match the contents, as after an edit by hand")
        }
    }

    private init(_ place: Place) throws {
        let all = try place.object(
            "schema_version", "target", "recipe", "recipe_rules", "quant_overrides", "kernels", "custom_operators", "verified",
            "checkpoint_name", "checkpoint_fingerprint", "model", "graphs", "decoder", "preprocessing", "prompt", "parity", "accuracy",
            "files", "expected_memory_bytes", "bits_per_weight", "bundle_bytes", "tool_versions", "created", "licenses", "manifest_sha256")
        target = try all["target"].choice("executorch", "coreml", "onnx")
        recipe = try all["recipe"].name()
        _ = try all["recipe_rules"].map { $0 }
        _ = try all["quant_overrides"].map { try $0.string() }
        kernels = try all["kernels"].choice("stock", "fused")
        customOperators = try all["custom_operators"].list { try $0.name() }
        verified = try all["verified"].bool()
        checkpointName = try all["checkpoint_name"].string()
        _ = try all["checkpoint_fingerprint"].name()
        model = try ModelConfig(all["model"])
        let entries = try all["graphs"].object(named: GraphName.allCases.map(\.rawValue))
        graphs = try Dictionary(
            uniqueKeysWithValues: GraphName.allCases.map { ($0, try GraphEntry(entries[$0.rawValue], name: $0.rawValue)) })
        for (name, entry) in graphs where name != .decoder && entry.inputs.count != 1 || entry.outputs.count != 1 {
            throw JSONError(line: "graphs.\(name.rawValue) has other inputs or outputs than this app knows")
        }
        for name in [GraphName.imageProjector, .videoProjector] {
            guard case .size? = graphs[name]?.outputs.first?.shape.first else {
                throw JSONError(line: "graphs.\(name.rawValue).outputs[0].shape does not say how many tokens there are")
            }
        }
        decoder = try DecoderInterface(all["decoder"])
        preprocessing = try Preprocessing(all["preprocessing"])
        prompt = try PromptTemplate(all["prompt"])
        parity = try all["parity"].list { try StageParity($0) }
        accuracy = try all["accuracy"].map { try $0.double() }
        files = try all["files"].map { place in try FileEntry(place) }
        for path in files.keys.sorted() { _ = try Place(.string(path), path: "a key of files").relativePath() }
        expectedMemoryBytes = try all["expected_memory_bytes"].int(from: 0)
        bitsPerWeight = try all["bits_per_weight"].double(0...Double.greatestFiniteMagnitude)
        bundleBytes = try all["bundle_bytes"].int(from: 0)
        toolVersions = try all["tool_versions"].map { try $0.string() }
        created = try all["created"].string("a UTC time like 2026-01-31T12:00:00Z") {
            $0.wholeMatch(of: /[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z/) != nil
        }
        licenses = try all["licenses"].map { try $0.string() }
        digest = try all["manifest_sha256"].sha256()
    }
}
