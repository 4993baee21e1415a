import Foundation
import MobileVideoGPTCore

/// How far a bundle is on its way into memory.
enum OpeningStep: Sendable, Equatable {
    /// The share of its bytes that is hashed, 0 to 1; only the first time, and after a change.
    case checking(Double)
    case preparing(GraphName)

    var line: String {
        switch self {
        case .checking(let share): "Checking its files, \(Int(share * 100)) %"
        case .preparing(let graph): "Preparing \(graph.rawValue.replacing("_", with: " ")) for this device: a minute or more the first time"
        }
    }
}

/// Opens a bundle: checked, compiled, loaded, behind a `VideoChat`. Nothing of this runs on the main actor.
enum Opening {
    /// Throws `VideoGPTError`, and `CancellationError`.
    static func open(_ folder: URL, units: ComputeUnits, step: @Sendable (OpeningStep) -> Void) async throws -> VideoChat {
        let hashing = CryptoKitHashing()
        let host = BundleHost(availableBytes: Device.availableBytes, targets: ["coreml"])
        step(.checking(0))
        let bundle = try ModelBundle.open(folder, host: host, stamps: BundleLibrary.stamps, hashing: hashing) { step(.checking($0)) }
        guard let file = bundle.tokenizerURL else { throw VideoGPTError.noTokenizer }  // before minutes of compiling
        let tokenizer = try BundleTokenizer(reading: file)
        let prepared = try await PreparedModels.prepare(bundle, units: units, store: try CompiledModels.standard()) { step(.preparing($0)) }
        return VideoChat(bundle: bundle, tokenizer: tokenizer) { bundle in
            try PackageBackend(manifest: bundle.manifest, engine: CoreMLEngine(prepared), name: "coreml-\(units.rawValue)", versions: [:])
        }
    }
}
