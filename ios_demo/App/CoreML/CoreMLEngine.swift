import CoreML
import Foundation
import MobileVideoGPTCore

/// Core ML runs the packages of a bundle: one model for each function, all of the decoder's over the state that its first one made.
/// `PackageBackend` of the core names the features and cuts prompts into calls.
///
/// Not for two threads at once, as `PackageEngine` says: a `VideoChat` makes it and keeps it on its queue.
final class CoreMLEngine: PackageEngine {
    private let prepared: PreparedModels
    private var models: [ModelKey: MLModel]
    private var state: MLState?

    /// Takes over what `prepared` has in memory, if none did before.
    init(_ prepared: PreparedModels) {
        self.prepared = prepared
        models = prepared.take()
    }

    func load(_ graph: GraphName) throws {
        for key in prepared.keys(of: graph) where models[key] == nil { models[key] = try prepared.load(key) }
    }

    func release(_ graph: GraphName) {
        for key in prepared.keys(of: graph) { models[key] = nil }
        if graph == .decoder { state = nil }
    }

    func run(_ graph: GraphName, function: String?, inputs: [String: Feature], output: String) throws -> FloatTensor {
        try load(graph)
        do {
            guard let model = models[ModelKey(graph: graph, function: function)] else { throw Absent(what: function ?? "main") }
            // Core ML's results are autoreleased: a long answer would keep them all until its end.
            return try autoreleasepool {
                let features = try MLDictionaryFeatureProvider(
                    dictionary: inputs.mapValues { MLFeatureValue(multiArray: try MLMultiArray.make($0)) })
                let results = graph == .decoder
                    ? try model.prediction(from: features, using: try decoderState())
                    : try model.prediction(from: features)
                guard let array = results.featureValue(for: output)?.multiArrayValue else { throw Absent(what: output) }
                return try array.floatTensor()
            }
        } catch {
            throw graphFailure(graph, error)
        }
    }

    /// The one state of all functions, zeros at first.
    private func decoderState() throws -> MLState {
        if let state { return state }
        guard let first = prepared.keys(of: .decoder).first.flatMap({ models[$0] }) else { throw Absent(what: "functions") }
        let made = first.makeState()
        state = made
        return made
    }
}

/// Something that the manifest names and the package has not.
private struct Absent: LocalizedError {
    let what: String
    var errorDescription: String? { "it has no \(what)" }
}
