import Foundation

/// The seven graphs of a bundle, by the names that the manifest uses.
public enum GraphName: String, CaseIterable, Sendable {
    case imageEncoder = "image_encoder"
    case frameScorer = "frame_scorer"
    case videoEncoder = "video_encoder"
    case imageProjector = "image_projector"
    case videoProjector = "video_projector"
    case tokenEmbedding = "token_embedding"
    case decoder

    /// What watching a clip runs, in this order.
    public static let vision: [GraphName] = [.imageEncoder, .frameScorer, .videoEncoder, .imageProjector, .videoProjector]
}

/// Float32 values in C order.
public struct FloatTensor: Sendable, Equatable {
    public let shape: [Int]
    /// As many values as the sizes of `shape` multiply to.
    public let data: [Float]

    public init(shape: [Int], data: [Float]) {
        precondition(data.count == shape.reduce(1, *), "a tensor of shape \(shape) has other than \(data.count) values")
        self.shape = shape
        self.data = data
    }

    /// The first axis's size.
    public var rows: Int { shape.first ?? 1 }

    /// Values of one row.
    public var width: Int { shape.dropFirst().reduce(1, *) }

    /// The same values, which are not copied, in another shape.
    public func reshaped(_ shape: [Int]) -> FloatTensor { FloatTensor(shape: shape, data: data) }

    /// Rows of the first axis, as a copy.
    public func slice(_ range: Range<Int>) -> FloatTensor {
        FloatTensor(shape: [range.count] + shape.dropFirst(), data: Array(data[range.lowerBound * width..<range.upperBound * width]))
    }

    /// Tensors of the same row shape behind each other.
    public static func concatenated(_ parts: [FloatTensor]) -> FloatTensor {
        var data: [Float] = []
        data.reserveCapacity(parts.reduce(0) { $0 + $1.data.count })
        for part in parts { data += part.data }
        return FloatTensor(shape: [parts.reduce(0) { $0 + $1.rows }] + (parts.first?.shape.dropFirst() ?? []), data: data)
    }
}

/// The graphs of a bundle on one device: what a session needs, and all it knows of what runs them.
///
/// The decoder's cache is kept inside. Tokens beyond the position of a call are never attended to, so starting again at an earlier
/// position needs no reset. A backend is used by one thread at a time. Apps for Core ML bundles take `PackageBackend` and bring an engine.
public protocol GraphBackend: AnyObject {
    var manifest: Manifest { get }
    /// Tokens that the cache holds.
    var maxContext: Int { get }
    /// As the benchmark reports it, `coreml-all` for example.
    var name: String { get }
    /// Versions of what runs the graphs, for the benchmark.
    var versions: [String: String] { get }

    /// Runs one graph but the embedding and the decoder; shapes as the manifest has them.
    func run(_ graph: GraphName, _ input: FloatTensor) throws -> FloatTensor
    /// Embeddings [N, D] of at least one id.
    func embed(_ ids: [Int]) throws -> FloatTensor
    /// Appends embeddings [T, D] to the cache at `position`; the logits [V] of the last one.
    func decode(_ embeds: FloatTensor, at position: Int) throws -> [Float]
    /// Loads those that are not loaded yet; without it each is loaded at its first use.
    func load(_ graphs: [GraphName]) throws
    /// Frees their memory; each is loaded again at its next use. With the decoder its cache goes too.
    func release(_ graphs: [GraphName])
}

/// A named input of a Core ML function.
public enum Feature: Sendable, Equatable {
    case float32(FloatTensor)
    /// [N]
    case int32([Int32])
}

/// Something that runs the Core ML packages of a bundle: Core ML in the app, an interpreter in the tests. Used by one thread at a time.
public protocol PackageEngine: AnyObject {
    /// Loads a graph, all its functions, if it is not loaded yet.
    func load(_ graph: GraphName) throws
    /// Frees a graph, if it is loaded. The decoder's state goes with it.
    func release(_ graph: GraphName)
    /// One call of a function; the named output as float32 in C order. `function` is one of the manifest's `decoder.details` for the
    /// decoder, and nil for a package with one function. The decoder's state is the engine's: one for all functions, zeros at first.
    func run(_ graph: GraphName, function: String?, inputs: [String: Feature], output: String) throws -> FloatTensor
}

/// Text to ids and back, as the bundle's tokenizer.json has it. Apps bring one, swift-transformers' `Tokenizers` for example.
public protocol Tokenizing: Sendable {
    /// Ids of a text: nothing is added at its ends, and special tokens in it are recognised.
    func encode(_ text: String) throws -> [Int]
    /// The text of ids without that of special tokens, and without cleaning up of spaces. Bytes that are no character are U+FFFD.
    func decode(_ ids: [Int]) throws -> String
}

/// SHA-256, which apps take from CryptoKit.
public protocol Hashing: Sendable {
    func sha256() -> any HashState
}

/// A hash that takes bytes as they come.
public protocol HashState {
    mutating func update(_ bytes: UnsafeRawBufferPointer)
    /// The 32 bytes. Nothing is added behind them.
    mutating func finish() -> [UInt8]
}
