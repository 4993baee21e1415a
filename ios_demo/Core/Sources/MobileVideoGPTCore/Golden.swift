import Foundation

/// The golden vectors of a bundle, `golden.json` and `golden.bin`: what a host in another language has to compute, as Python does.
public struct Golden: Sendable {
    static let version = 1

    let cases: JSONValue
    private let arrays: Data

    /// Throws `missingFile`, `unreadableFile`, `invalidGolden`.
    public static func read(_ bundle: ModelBundle) throws -> Golden { try read(bundle.folder) }

    static func read(_ folder: URL) throws -> Golden {
        let golden = Golden(cases: try parsed(file("golden.json", folder)), arrays: try file("golden.bin", folder))
        let found = try golden.checked { try $0.map { $0 }["version"]?.int() }
        guard found == version else { throw VideoGPTError.invalidGolden("their version is not \(version)") }
        return golden
    }

    /// What the eager model computes from the bundle's own frames.
    public func reference() throws -> GoldenReference {
        try checked { place in
            guard let reference = try place.map({ $0 })["reference"] else { throw JSONError(line: "no reference") }
            let all = try reference.map { $0 }
            func part(_ key: String) throws -> Place {
                guard let place = all[key] else { throw JSONError(line: "reference.\(key) is missing") }
                return place
            }
            let pictures = try array(part("frames"))  // [n, H, W, 3]
            guard pictures.shape.count == 4, pictures.shape[3] == 3, pictures.shape.allSatisfy({ $0 > 0 }) else {
                throw JSONError(line: "reference.frames has the shape \(pictures.shape)")
            }
            let (height, width) = (pictures.shape[1], pictures.shape[2])
            let bytes = try pictures.bytes()
            let size = width * height * 3
            return GoldenReference(
                frames: (0..<pictures.shape[0]).map {
                    RGBImage(width: width, height: height, data: Array(bytes[$0 * size..<($0 + 1) * size]))
                },
                ids: try part("ids").list { try $0.int() },
                selectedFrames: try part("selected_frames").list { try $0.list { try $0.int() } },
                frameScores: try array(part("frame_scores")).floats(), greedyIDs: try part("greedy_ids").list { try $0.int() },
                lastLogits: try array(part("last_logits")).floats().data, metric: try part("metric").choice("row", "max"),
                threshold: try part("threshold").double(), equalIDs: try part("equal_ids").optional { try $0.int(from: 0) })
        }
    }

    /// Pictures and what each encoder sees of them.
    func pictures() throws -> [GoldenPicture] {
        try checked { place in
            try place.map { $0 }["resize"]?.list { place in
                let all = try place.object("name", "source", "clip", "video")
                let source = try array(all["source"])
                guard source.shape.count == 3, source.shape[2] == 3 else {
                    throw JSONError(line: "a picture has the shape \(source.shape)")
                }
                return GoldenPicture(
                    source: RGBImage(width: source.shape[1], height: source.shape[0], data: try source.bytes()),
                    clip: try array(all["clip"]).bytes(), video: try array(all["video"]).bytes())
            } ?? []
        }
    }

    /// Texts with their ids; none where the bundle has no tokenizer.
    func texts() throws -> [GoldenText] {
        try checked { place in
            try place.map { $0 }["tokenizer"]?.list { place in
                let all = try place.object("text", "ids", "pieces", "flushed")
                return GoldenText(
                    text: try all["text"].string(), ids: try all["ids"].list { try $0.int() },
                    pieces: try all["pieces"].list { try $0.string() }, flushed: try all["flushed"].string())
            } ?? []
        }
    }

    /// An array by its place in `golden.bin`.
    func array(_ place: Place) throws -> GoldenArray {
        let all = try place.object("offset", "shape", "dtype")
        let shape = try all["shape"].list { try $0.int(from: 0) }
        let dtype = try all["dtype"].choice("uint8", "float32", "int64")
        let offset = try all["offset"].int(from: 0)
        let size = shape.reduce((["uint8": 1, "float32": 4, "int64": 8][dtype] ?? 1, false)) { sum, axis in
            let (product, overflow) = sum.0.multipliedReportingOverflow(by: axis)
            return (product, sum.1 || overflow)
        }
        guard !size.1, offset <= arrays.count, size.0 <= arrays.count - offset else {
            throw JSONError(line: "\(place.path) lies beyond golden.bin")
        }
        let begin = arrays.startIndex + offset
        return GoldenArray(shape: shape, dtype: dtype, data: arrays[begin..<begin + size.0], path: place.path)
    }

    /// Reads from the cases; a wrong place becomes `invalidGolden`.
    func checked<Value>(_ read: (Place) throws -> Value) throws -> Value {
        do {
            return try read(Place(cases))
        } catch let error as JSONError {
            throw VideoGPTError.invalidGolden(error.line)
        }
    }

    private static func file(_ name: String, _ folder: URL) throws -> Data {
        let url = folder.appending(path: name)
        guard FileManager.default.fileExists(atPath: url.path) else { throw VideoGPTError.missingFile(name) }
        do {
            return try Data(contentsOf: url, options: .mappedIfSafe)
        } catch {
            throw VideoGPTError.unreadableFile(name, reason: oneLine(error))
        }
    }

    private static func parsed(_ data: Data) throws -> JSONValue {
        do {
            return try JSONValue(parsing: data)
        } catch let error as JSONError {
            throw VideoGPTError.invalidGolden(error.line)
        }
    }
}

/// A picture, and what the image encoder and the video encoder see of it, [224, 224, 3] each.
struct GoldenPicture {
    let source: RGBImage
    let clip: [UInt8]
    let video: [UInt8]
}

/// A text, its ids, the text that each id completes when streamed, and what remains at the end.
struct GoldenText {
    let text: String
    let ids: [Int]
    let pieces: [String]
    let flushed: String
}

/// An array of `golden.bin`, little-endian, C order.
struct GoldenArray {
    let shape: [Int]
    let dtype: String
    let data: Data
    let path: String

    func bytes() throws -> [UInt8] {
        guard dtype == "uint8" else { throw JSONError(line: "\(path) is \(dtype), not uint8") }
        return Array(data)
    }

    func floats() throws -> FloatTensor {
        guard dtype == "float32" else { throw JSONError(line: "\(path) is \(dtype), not float32") }
        let values = data.withUnsafeBytes { raw in
            (0..<raw.count / 4).map { Float(bitPattern: UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: $0 * 4, as: UInt32.self))) }
        }
        return FloatTensor(shape: shape, data: values)
    }
}

/// The probe of a build and what the eager model makes of it.
public struct GoldenReference: Sendable {
    public let frames: [RGBImage]
    /// Prompt ids with a run of placeholders for the video.
    public let ids: [Int]
    /// [2, 4], within chunks.
    public let selectedFrames: [[Int]]
    /// [2, 8]
    public let frameScores: FloatTensor
    public let greedyIDs: [Int]
    /// [V], behind the prompt.
    public let lastLogits: [Float]
    /// Of the error of `lastLogits`: `row`, the norm of the difference by the norm of the reference's, or `max`, the largest difference by
    /// the largest magnitude.
    public let metric: String
    /// The bound of that error.
    public let threshold: Double
    /// Greedy steps in which the bundle gave the reference's id on the building machine; nil where it did not run there.
    public let equalIDs: Int?
}
