import Foundation
import Synchronization
import XCTest

@testable import MobileVideoGPTCore

/// The other end is `tests/ios/graph_server.py`: two named pipes in the folder that GRAPHS names. A message is the length of a JSON header
/// (uint32, little-endian), the header, and the arrays that it lists, little-endian, C order.
final class Pipes: Sendable {
    private struct Ends {
        let requests: FileHandle
        let replies: FileHandle
    }

    private let ends: Mutex<Ends>

    /// The one connection of a test process.
    static let shared: Pipes? = ProcessInfo.processInfo.environment["GRAPHS"].flatMap { try? Pipes(URL(filePath: $0)) }

    static func connected() throws -> Pipes {
        guard let shared else { throw XCTSkip("the environment variable GRAPHS names no folder of pipes, tests/ios/test_core.py does") }
        return shared
    }

    private init(_ folder: URL) throws {
        let requests = try FileHandle(forWritingTo: folder.appending(path: "requests"))  // opened in the server's order
        ends = Mutex(Ends(requests: requests, replies: try FileHandle(forReadingFrom: folder.appending(path: "replies"))))
    }

    /// One request and its reply: the header's entries, and its arrays. The server's errors are `graphFailed`.
    func call(_ header: [String: JSONValue], arrays: [String: Feature] = [:]) throws -> (header: [String: Place], arrays: [Data]) {
        var (listed, payload) = ([JSONValue](), Data())
        for (name, feature) in arrays {
            let (dtype, shape, bytes): (String, [Int], Data) =
                switch feature {
                case .float32(let tensor): ("float32", tensor.shape, tensor.data.withUnsafeBytes { Data($0) })
                case .int32(let values): ("int32", [values.count], values.withUnsafeBytes { Data($0) })
                }
            let sizes = shape.map { JSONValue.number("\($0)") }
            listed.append(.object(["name": .string(name), "dtype": .string(dtype), "shape": .array(sizes)]))
            payload += bytes
        }
        let text = Data(JSONValue.object(header.merging(["arrays": .array(listed)]) { $1 }).canonical.utf8)
        let length = withUnsafeBytes(of: UInt32(text.count).littleEndian) { Data($0) }
        return try ends.withLock { ends in
            try ends.requests.write(contentsOf: length + text + payload)
            let size = try read(4, ends.replies).withUnsafeBytes { Int(UInt32(littleEndian: $0.loadUnaligned(as: UInt32.self))) }
            let reply = try Place(JSONValue(parsing: read(size, ends.replies))).map { $0 }
            if let error = reply["error"] { throw VideoGPTError.graphFailed(graph: "server", reason: try error.string()) }
            let sizes = try reply["bytes"]?.list { try $0.int() } ?? []
            return (reply, try sizes.map { try read($0, ends.replies) })
        }
    }

    private func read(_ count: Int, _ pipe: FileHandle) throws -> Data {
        var data = Data()
        while data.count < count {
            guard let more = try pipe.read(upToCount: count - data.count), !more.isEmpty else { throw Broken() }
            data += more
        }
        return data
    }
}

extension [String: Place] {
    func entry(_ key: String) throws -> Place { try XCTUnwrap(self[key], key) }
}

/// Python interprets the packages; it knows nothing of how a decoder is driven.
final class PipeEngine: PackageEngine {
    private let pipes: Pipes

    init(_ pipes: Pipes) { self.pipes = pipes }

    func load(_ graph: GraphName) throws { _ = try pipes.call(["do": .string("load"), "graph": .string(graph.rawValue)]) }

    func release(_ graph: GraphName) { _ = try? pipes.call(["do": .string("release"), "graph": .string(graph.rawValue)]) }

    func run(_ graph: GraphName, function: String?, inputs: [String: Feature], output: String) throws -> FloatTensor {
        let reply = try pipes.call(
            [
                "do": .string("run"), "graph": .string(graph.rawValue), "function": function.map { .string($0) } ?? .null,
                "output": .string(output),
            ], arrays: inputs)
        let shape = try reply.header.entry("shape").list { try $0.int() }
        return FloatTensor(shape: shape, data: reply.arrays[0].withUnsafeBytes { Array($0.bindMemory(to: Float.self)) })
    }
}

/// Python's own tokenizer.
struct PipeTokenizer: Tokenizing {
    let pipes: Pipes

    func encode(_ text: String) throws -> [Int] {
        try pipes.call(["do": .string("encode"), "text": .string(text)]).header.entry("ids").list { try $0.int() }
    }

    func decode(_ ids: [Int]) throws -> String {
        try pipes.call(["do": .string("decode"), "ids": .array(ids.map { .number("\($0)") })]).header.entry("text").string()
    }
}

/// Python reads the clip; which frames, this package says.
struct PipeReader: FrameReading {
    let pipes: Pipes

    func open(_ video: URL) async throws -> VideoInfo {
        let header = try pipes.call(["do": .string("open")]).header
        return VideoInfo(frames: try header.entry("frames").int(), fps: try header.entry("fps").double())
    }

    func read(_ video: URL, frames: [Int], each: @Sendable (SampledFrame) throws -> Void) async throws {
        for number in frames {
            let reply = try pipes.call(["do": .string("frame"), "number": .number("\(number)")])
            let shape = try reply.header.entry("shape").list { try $0.int() }
            let image = RGBImage(width: shape[1], height: shape[0], data: Array(reply.arrays[0]))
            try each(SampledFrame(number: number, seconds: try reply.header.entry("seconds").double(), image: image))
        }
    }
}
