import Foundation

/// What a benchmark found, under the names and in the units of the last line of `python -m runtime_py.bench`.
public struct BenchReport: Sendable, Equatable {
    let summary: BenchSummary
    public let backend: String
    public let device: String
    public let source: String
    public let coldTTFTSeconds: Double
    public let newTokens: Int
    public let runs: Int
    public let threads: Int
    public let peakBytes: Int
    public let bundleBytes: Int
    public let versions: [String: String]
    public let thermalStateBefore: String
    public let thermalStateAfter: String

    /// Seconds of each stage up to the first token, in the order in which they run.
    public var stages: [(name: String, seconds: Double)] {
        Self.order.compactMap { name in summary.stagesSeconds[name].map { (name, $0) } }
    }
    public var samplingSeconds: Double { summary.samplingSeconds }
    public var ttftSeconds: Double { stages.reduce(0) { $0 + $1.seconds } + summary.samplingSeconds }
    /// To the first token of another question about the same video.
    public var againTTFTSeconds: Double { summary.againSeconds }
    public var answerSeconds: Double { summary.answerSeconds }
    public var contextTokens: Int { summary.contextTokens }
    public var prefillTokensPerSecond: Double { Double(summary.contextTokens) / (summary.stagesSeconds["prefill"] ?? .infinity) }
    public var decodeTokensPerSecond: Double { summary.decodeTokensPerSecond }

    static let order = ["loading"] + GraphName.allCases.filter { $0 != .decoder }.map(\.rawValue) + ["prefill"]

    /// One line of JSON.
    public var json: String {
        JSONLine.object([
            ("backend", .string(backend)), ("device", .string(device)), ("dtype", .null), ("source", .string(source)),
            ("stages_s", .object(stages.map { ($0.name, .double($0.seconds)) })), ("sampling_s", .double(samplingSeconds)),
            ("ttft_s", .double(ttftSeconds)), ("again_ttft_s", .double(againTTFTSeconds)), ("answer_s", .double(answerSeconds)),
            ("context_tokens", .int(contextTokens)), ("prefill_tok_s", .double(prefillTokensPerSecond)),
            ("decode_tok_s", .double(decodeTokensPerSecond)), ("cold_ttft_s", .double(coldTTFTSeconds)), ("new_tokens", .int(newTokens)),
            ("runs", .int(runs)), ("threads", .int(threads)), ("peak_rss_bytes", .int(peakBytes)), ("bundle_bytes", .int(bundleBytes)),
            ("versions", .object(versions.sorted { $0.key < $1.key }.map { ($0.key, .string($0.value)) })),
            ("thermal_state", .object([("before", .string(thermalStateBefore)), ("after", .string(thermalStateAfter))])),
        ]).text
    }
}

/// JSON whose keys keep their order, and whose whole floats stay floats.
private enum JSONLine {
    case null
    case int(Int)
    case double(Double)
    case string(String)
    case object([(String, JSONLine)])

    var text: String {
        switch self {
        case .null: "null"
        case .int(let value): String(value)
        case .double(let value): value.isFinite ? "\(value)" : "null"  // 5.0, 1e-07: the shortest that reads back the same
        case .string(let value): JSONValue.string(value).canonical
        case .object(let members): "{" + members.map { "\(JSONValue.string($0).canonical): \($1.text)" }.joined(separator: ", ") + "}"
        }
    }
}
