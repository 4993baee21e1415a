import Foundation

/// A size, or the name of an axis whose size the host chooses.
public enum Dimension: Sendable, Equatable {
    case size(Int)
    case axis(String)
}

/// An input or output of a graph.
public struct TensorSpec: Sendable, Equatable {
    public let name: String
    public let shape: [Dimension]
    public let dtype: String
    public let about: String

    init(_ place: Place) throws {
        let all = try place.object("name", "shape", "dtype", "description")
        name = try all["name"].name()
        shape = try all["shape"].list { size in
            if case .number = size.value { return .size(try size.int(from: 1)) }
            return .axis(
                try size.string("a size of 1 or more, or a dynamic axis's name") { $0.wholeMatch(of: /[A-Za-z_][A-Za-z0-9_]*/) != nil })
        }
        dtype = try all["dtype"].choice("float32", "float16", "int64", "int32", "int8", "uint8", "bool")
        about = try all["description"].string()
    }
}

/// An axis whose size the host chooses, from `minimum` to `maximum`, both included.
public struct DynamicAxis: Sendable, Equatable {
    public let name: String
    public let minimum: Int
    public let maximum: Int

    init(_ place: Place) throws {
        let all = try place.object("name", "minimum", "maximum")
        name = try all["name"].name()
        minimum = try all["minimum"].int(from: 0)
        maximum = try all["maximum"].int(from: 0)
    }
}

/// How many weights of an artifact are in one scheme, and the bytes they take.
public struct SchemeShare: Sendable, Equatable {
    public let scheme: String
    public let weights: Int
    public let bytes: Int

    init(_ place: Place) throws {
        let all = try place.object("scheme", "weights", "bytes")
        scheme = try all["scheme"].name()
        weights = try all["weights"].int(from: 0)
        bytes = try all["bytes"].int(from: 0)
    }
}

/// One graph: a file, or a folder for a Core ML package, with its hash and its interface.
public struct GraphEntry: Sendable, Equatable {
    public let file: String
    public let sha256: String
    public let bytes: Int
    public let inputs: [TensorSpec]
    public let outputs: [TensorSpec]
    public let dynamicAxes: [DynamicAxis]
    public let schemes: [SchemeShare]
    /// Layers that the recipe left out, with the reason.
    public let excluded: [String: String]
    public let activations: String
    public let delegated: Double
    /// Operators that a host must have beside the delegate.
    public let operators: [String]
    public let peakMemoryBytes: Int
    public let delegate: String

    init(_ place: Place, name: String) throws {
        let all = try place.object(
            "name", "file", "sha256", "bytes", "inputs", "outputs", "dynamic_axes", "schemes", "excluded", "activations", "delegated",
            "operators", "peak_memory_bytes", "delegate")
        _ = try all["name"].string("'\(name)'") { $0 == name }
        file = try all["file"].relativePath()
        sha256 = try all["sha256"].sha256()
        bytes = try all["bytes"].int(from: 0)
        inputs = try all["inputs"].list { try TensorSpec($0) }
        outputs = try all["outputs"].list { try TensorSpec($0) }
        dynamicAxes = try all["dynamic_axes"].list { try DynamicAxis($0) }
        schemes = try all["schemes"].list { try SchemeShare($0) }
        excluded = try all["excluded"].map { try $0.string() }
        activations = try all["activations"].string()
        delegated = try all["delegated"].double(0...1)
        operators = try all["operators"].list { try $0.name() }
        peakMemoryBytes = try all["peak_memory_bytes"].int(from: 0)
        delegate = try all["delegate"].string()
        let axes = dynamicAxes.filter { $0.minimum <= $0.maximum }.map(\.name)
        for case .axis(let axis) in (inputs + outputs).flatMap(\.shape) where !axes.contains(axis) {
            throw JSONError(line: "\(place.path): a shape names '\(axis)', but dynamic_axes has no such axis with a valid range")
        }
    }
}

/// A file of the bundle that is no graph.
public struct FileEntry: Sendable, Equatable {
    public let sha256: String
    public let bytes: Int

    init(_ place: Place) throws {
        let all = try place.object("sha256", "bytes")
        sha256 = try all["sha256"].sha256()
        bytes = try all["bytes"].int(from: 0)
    }
}

/// How a host drives the decoder. `functions` and `slots` are those of the interface `coreml_state`, empty and 0 for others.
public struct DecoderInterface: Sendable, Equatable {
    /// A function of the decoder's package, and the tokens that one call of it takes.
    public struct Function: Sendable, Equatable {
        public let name: String
        public let tokens: Int
    }

    public let interface: String
    public let maxContext: Int
    public let functions: [Function]
    /// Tokens that the state has room for.
    public let slots: Int

    init(_ place: Place) throws {
        let all = try place.object("interface", "max_context", "details")
        interface = try all["interface"].choice("internal", "coreml_state", "explicit")
        maxContext = try all["max_context"].int(from: 1)
        let details = try all["details"].map { $0 }
        guard interface == "coreml_state" else {
            (functions, slots) = ([], 0)
            return
        }
        guard let list = details["functions"], let size = details["slots"] else {
            throw JSONError(line: "decoder.details does not say how to drive the decoder")
        }
        functions = try list.list { place in
            let all = try place.object("name", "tokens")
            return Function(name: try all["name"].name(), tokens: try all["tokens"].int(from: 1))
        }
        slots = try size.int(from: maxContext)
        guard !functions.isEmpty else { throw list.refusal("a list of functions") }
    }
}

/// What a host does before and between graphs. Means and stds are for RGB in 0..1; frame scores within `tieTolerance`, relative, tie, and
/// ties go to the lower index; `topk` false takes the lowest scores.
public struct Preprocessing: Sendable, Equatable {
    public let frames: Int
    /// Pixels, both sides.
    public let imageSize: Int
    public let imageMean: [Double]
    public let imageStd: [Double]
    public let videoMean: [Double]
    public let videoStd: [Double]
    public let chunkFrames: Int
    public let keyFramesPerChunk: Int
    public let topk: Bool
    public let tieTolerance: Double

    /// Chunks of frames within which key frames are chosen.
    public var chunks: Int { frames / chunkFrames }

    init(_ place: Place) throws {
        let all = try place.object(
            "frames", "image_size", "image_mean", "image_std", "video_mean", "video_std", "chunk_frames", "key_frames_per_chunk", "topk",
            "tie_tolerance", "image_resize", "video_resize")
        func rgb(_ key: String) throws -> [Double] {
            let values = try all[key].list { try $0.double() }
            guard values.count == 3 else { throw all[key].refusal("a list of 3") }
            return values
        }
        frames = try all["frames"].int(from: 1)
        imageSize = try all["image_size"].int(from: 1)
        (imageMean, imageStd) = (try rgb("image_mean"), try rgb("image_std"))
        (videoMean, videoStd) = (try rgb("video_mean"), try rgb("video_std"))
        chunkFrames = try all["chunk_frames"].int(from: 1)
        keyFramesPerChunk = try all["key_frames_per_chunk"].int(from: 1)
        topk = try all["topk"].bool()
        tieTolerance = try all["tie_tolerance"].double(0...Double.greatestFiniteMagnitude)
        for resize in ["image_resize", "video_resize"] { _ = try all[resize].name() }
        guard frames % chunkFrames == 0 else { throw all["chunk_frames"].refusal("a divisor of \(frames)") }
        guard keyFramesPerChunk <= chunkFrames else { throw all["key_frames_per_chunk"].refusal("at most \(chunkFrames)") }
    }
}

/// One rung of the build's parity ladder: fed with the reference's input (own), and as the user gets it (chained).
public struct StageParity: Sendable, Equatable {
    public let stage: String
    public let ownError: Double
    public let chainedError: Double
    public let thresholdOwn: Double
    public let thresholdChained: Double
    public let metric: String
    public let passed: Bool
    public let note: String

    init(_ place: Place) throws {
        let all = try place.object(
            "stage", "own_error", "chained_error", "threshold_own", "threshold_chained", "metric", "passed", "note")
        stage = try all["stage"].name()
        ownError = try all["own_error"].double()
        chainedError = try all["chained_error"].double()
        thresholdOwn = try all["threshold_own"].double()
        thresholdChained = try all["threshold_chained"].double()
        metric = try all["metric"].name()
        passed = try all["passed"].bool()
        note = try all["note"].string()
    }
}
