// The files of the app that need no Apple framework, for the tests: requests as JSON on stdin, replies as JSON on stdout.

import Foundation

struct Request: Decodable {
    struct Index: Decodable {
        /// pts, duration, keyframe, shown
        let frames: [[Int64]]
        let timescale: Int32
        let rate: Double?
        let picked: [Int]
        let times: [Int64]
    }

    struct Array: Decodable {
        let shape: [Int]
        let strides: [Int]
        let memory: [Float]
    }

    let indices: [Index]
    let matrices: [[Double]]
    let arrays: [Array]
}

struct Reply: Encodable {
    struct Index: Encodable {
        let pts: [Int64]
        let positions: [Int]
        let rate: Double
        let duration: Double
        let times: [Double]
        let keyframes: [Int]
        let nearest: [Int]
        let runs: [[Int]]
    }

    struct Turn: Encodable {
        let rotation: Int
        let mirrored: Bool
    }

    struct Array: Encodable {
        let contiguous: Bool
        let span: Int
        let values: [Float]
        let scattered: [Float]
    }

    let indices: [Index?]
    let turns: [Turn]
    let arrays: [Array]
}

func reply(_ request: Request.Index) -> Reply.Index? {
    let frames = request.frames.map { CodedFrame(pts: $0[0], duration: $0[1], isKeyframe: $0[2] == 1, isShown: $0[3] == 1) }
    guard let index = FrameIndex(frames, timescale: request.timescale, declaredRate: request.rate) else { return nil }
    return Reply.Index(
        pts: index.pts, positions: index.positions, rate: index.rate, duration: index.durationSeconds,
        times: index.pts.indices.map(index.time(of:)), keyframes: index.pts.indices.map(index.keyframe(for:)),
        nearest: request.times.map(index.nearest(to:)), runs: index.runs(of: request.picked))
}

func reply(_ request: Request.Array) -> Reply.Array {
    let layout = StridedLayout(shape: request.shape, strides: request.strides)
    let values = request.memory.withUnsafeBufferPointer { layout.gather($0.baseAddress!) }
    var scattered = [Float](repeating: -1, count: request.memory.count)
    scattered.withUnsafeMutableBufferPointer { layout.scatter(values, to: $0.baseAddress!) }
    return Reply.Array(contiguous: layout.isContiguous, span: layout.span, values: values, scattered: scattered)
}

let request = try JSONDecoder().decode(Request.self, from: FileHandle.standardInput.readDataToEndOfFile())
let answer = Reply(
    indices: request.indices.map(reply),
    turns: request.matrices.map { matrix in
        let turn = Orientation(a: matrix[0], b: matrix[1], c: matrix[2], d: matrix[3])
        return Reply.Turn(rotation: turn.rotation, mirrored: turn.mirrored)
    },
    arrays: request.arrays.map(reply))
FileHandle.standardOutput.write(try JSONEncoder().encode(answer))
