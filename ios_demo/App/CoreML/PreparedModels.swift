import CoreML
import Foundation
import MobileVideoGPTCore
import Synchronization

/// One function of one package; nil where a package has one function.
struct ModelKey: Hashable, Sendable {
    let graph: GraphName
    let function: String?
}

/// A bundle's packages, compiled, and loaded once ahead of their first use: that is when a device makes them ready for its units.
final class PreparedModels: Sendable {
    private let places: [GraphName: URL]
    private let functions: [String]
    private let units: ComputeUnits
    private let loaded: Mutex<[ModelKey: MLModel]>

    private init(places: [GraphName: URL], functions: [String], units: ComputeUnits, loaded: sending [ModelKey: MLModel]) {
        self.places = places
        self.functions = functions
        self.units = units
        self.loaded = Mutex(loaded)
    }

    /// Compiles what is not compiled yet and loads every graph, one after the other: two loads at once would need the memory of both.
    ///
    /// - Parameter progress: called before each graph, in the order of `GraphName.allCases`.
    /// - Throws: `VideoGPTError.graphFailed`, `.cannotWrite`; `CancellationError` between two graphs.
    static func prepare(
        _ bundle: ModelBundle, units: ComputeUnits, store: CompiledModels, progress: @Sendable (GraphName) -> Void
    ) async throws -> PreparedModels {
        var places: [GraphName: URL] = [:]
        var models: [ModelKey: MLModel] = [:]
        for graph in GraphName.allCases {
            try Task.checkCancellation()
            progress(graph)
            let sha256 = bundle.manifest.graph(graph).sha256
            let known = store.has(sha256)
            do {
                places[graph] = try await load(graph, of: bundle, units, store, into: &models)
            } catch where known && !(error is CancellationError) {
                store.discard(sha256)  // compiled by another version of iOS, say: once more from the package
                places[graph] = try await load(graph, of: bundle, units, store, into: &models)
            }
        }
        let functions = bundle.manifest.decoder.functions.map(\.name)
        return PreparedModels(places: places, functions: functions, units: units, loaded: models)
    }

    /// A graph's models: the decoder has one for each of its functions, in the manifest's order.
    func keys(of graph: GraphName) -> [ModelKey] { Self.keys(of: graph, functions) }

    /// What is in memory since `prepare`, once; nothing the next time.
    func take() -> sending [ModelKey: MLModel] {
        loaded.withLock { models in
            let taken = models
            models = [:]
            return taken
        }
    }

    /// Loads one of them again, after its memory was freed. Throws `VideoGPTError.graphFailed`.
    func load(_ key: ModelKey) throws -> MLModel {
        guard let place = places[key.graph] else { preconditionFailure("prepare compiles every graph") }
        do {
            return try MLModel(contentsOf: place, configuration: Self.configuration(key, units))
        } catch {
            throw graphFailure(key.graph, error)
        }
    }

    /// Compiles a graph's package if need be and loads its functions; where the compiled form lies.
    private static func load(
        _ graph: GraphName, of bundle: ModelBundle, _ units: ComputeUnits, _ store: CompiledModels, into models: inout [ModelKey: MLModel]
    ) async throws -> URL {
        do {
            let place = try await store.compiled(bundle.graphURL(graph), sha256: bundle.manifest.graph(graph).sha256)
            for key in keys(of: graph, bundle.manifest.decoder.functions.map(\.name)) {
                models[key] = try await MLModel.load(contentsOf: place, configuration: configuration(key, units))
            }
            return place
        } catch {
            throw graphFailure(graph, error)
        }
    }

    private static func keys(of graph: GraphName, _ decoderFunctions: [String]) -> [ModelKey] {
        graph == .decoder ? decoderFunctions.map { ModelKey(graph: graph, function: $0) } : [ModelKey(graph: graph, function: nil)]
    }

    private static func configuration(_ key: ModelKey, _ units: ComputeUnits) -> MLModelConfiguration {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = units.units
        if let function = key.function { configuration.functionName = function }
        return configuration
    }
}

/// An error of Core ML as the app's; those that are its own, and a cancellation, stay.
func graphFailure(_ graph: GraphName, _ error: any Error) -> any Error {
    error is VideoGPTError || error is CancellationError ? error : VideoGPTError.graphFailed(graph: graph.rawValue, reason: oneLine(error))
}
