import Foundation

/// The graphs of a bundle built with `--target coreml`, over an engine that runs its packages. All that a host has to know of the packages
/// is here: names, padding, and the cut of a prompt into calls; the engine runs one function.
public final class PackageBackend: GraphBackend {
    public let manifest: Manifest
    public let name: String
    public let versions: [String: String]
    public var maxContext: Int { manifest.decoder.maxContext }

    private let engine: any PackageEngine
    private let calls: DecoderCalls

    /// Throws `wrongTarget` where the decoder is not one of Core ML packages.
    public init(manifest: Manifest, engine: any PackageEngine, name: String, versions: [String: String]) throws {
        guard manifest.target == "coreml", manifest.decoder.interface == "coreml_state" else {
            throw VideoGPTError.wrongTarget(found: manifest.target, wanted: ["coreml"])
        }
        self.manifest = manifest
        self.engine = engine
        self.name = name
        self.versions = versions
        calls = DecoderCalls(manifest.decoder)
    }

    public func run(_ graph: GraphName, _ input: FloatTensor) throws -> FloatTensor {
        try call(graph, nil, [try inputName(graph, 0): .float32(input)])
    }

    public func embed(_ ids: [Int]) throws -> FloatTensor {
        let axis = manifest.graph(.tokenEmbedding).dynamicAxes.first
        let (least, most) = (axis?.minimum ?? 1, max(1, axis?.maximum ?? ids.count))
        let parts = try stride(from: 0, to: ids.count, by: most).map { begin in
            let part = ids[begin..<min(ids.count, begin + most)].map { Int32(clamping: $0) }
            let padded = part + Array(repeating: 0, count: max(0, least - part.count))  // up to what the graph takes, and cut again
            return try call(.tokenEmbedding, nil, [try inputName(.tokenEmbedding, 0): .int32(padded)]).slice(0..<part.count)
        }
        return FloatTensor.concatenated(parts)  // [N, D]
    }

    /// The prompt [T, D] in as many calls as the functions' sizes make it; the last call's logits. Between calls it can be cancelled.
    public func decode(_ embeds: FloatTensor, at position: Int) throws -> [Float] {
        var logits: [Float] = []
        for one in try calls.plan(embeds.rows, at: position) {
            try Task.checkCancellation()
            let rows = embeds.slice(one.rows)
            let zeros = FloatTensor(
                shape: [one.tokens - rows.rows, embeds.width],
                data: Array(repeating: 0, count: (one.tokens - rows.rows) * embeds.width))
            var inputs: [String: Feature] = [
                try inputName(.decoder, 0): .float32(.concatenated([rows, zeros])),  // [tokens, D]
                try inputName(.decoder, 1): .int32([Int32(one.position)]),
            ]
            if let last = one.last { inputs[try inputName(.decoder, 2)] = .int32([Int32(last)]) }
            logits = try call(.decoder, one.function, inputs).data
        }
        return logits
    }

    public func load(_ graphs: [GraphName]) throws { for graph in graphs { try engine.load(graph) } }

    public func release(_ graphs: [GraphName]) { for graph in graphs { engine.release(graph) } }

    private func inputName(_ graph: GraphName, _ number: Int) throws -> String {
        let inputs = manifest.graph(graph).inputs
        guard number < inputs.count else {
            throw VideoGPTError.graphFailed(graph: graph.rawValue, reason: "it has \(inputs.count) inputs")
        }
        return inputs[number].name
    }

    private func call(_ graph: GraphName, _ function: String?, _ inputs: [String: Feature]) throws -> FloatTensor {
        guard let output = manifest.graph(graph).outputs.first else {
            throw VideoGPTError.graphFailed(graph: graph.rawValue, reason: "it has no output")
        }
        return try engine.run(graph, function: function, inputs: inputs, output: output.name)
    }
}
