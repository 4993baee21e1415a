import XCTest

@testable import MobileVideoGPTCore

/// The pure functions against the golden vectors of the bundle that BUNDLE names: what Python computes.
final class GoldenTests: XCTestCase {
    private var golden: Golden!
    private var manifest: Manifest!

    override func setUp() async throws {
        let folder = try bundleFolder()
        manifest = try ModelBundle.readManifest(folder, hashing: PlainHashing())
        golden = try Golden.read(folder)
    }

    /// The cases under a name; there is at least one.
    private func cases(_ name: String) throws -> [[String: Place]] {
        let cases = try golden.checked { try $0.map { $0 }[name]?.list { try $0.map { $0 } } ?? [] }
        XCTAssertFalse(cases.isEmpty, name)
        return cases
    }

    private func place(_ one: [String: Place], _ key: String) throws -> Place { try XCTUnwrap(one[key], key) }

    private func image(_ place: Place) throws -> RGBImage {
        let array = try golden.array(place)
        return RGBImage(width: array.shape[1], height: array.shape[0], data: try array.bytes())
    }

    func testFramesArePicked() throws {
        for one in try cases("pick_frames") {
            let (total, fps) = (try place(one, "total").int(), try place(one, "fps").double())
            let expected = try place(one, "indices").list { try $0.int() }
            XCTAssertEqual(try pickFrames(total: total, fps: fps, frames: place(one, "frames").int()), expected, "\(total) at \(fps)")
        }
        for (total, fps) in [(0, 30.0), (10, .nan)] { assertThrows(.videoWithoutFrames, try pickFrames(total: total, fps: fps)) }
        XCTAssertEqual(try pickFrames(total: 5, fps: .infinity), [0, 1, 2, 3, 4])
        XCTAssertEqual(try pickFrames(total: 1000, fps: -3).count, 16)
    }

    func testPicturesAreResizedExactly() throws {
        for one in try cases("resize") {
            let source = try image(place(one, "source"))
            let name = try place(one, "name").string()
            let side = manifest.preprocessing.imageSize
            XCTAssertEqual(clipImage(source, side: side), try golden.array(place(one, "clip")).bytes(), name)
            XCTAssertEqual(videoImage(source, side: side), try golden.array(place(one, "video")).bytes(), name)
            let pixels = Pixels.of([source, source], manifest.preprocessing)
            XCTAssertEqual(pixels.clip.shape, [16, 3, side, side])
            let plane = side * side
            let clip = try golden.array(place(one, "clip")).bytes()
            XCTAssertEqual(pixels.clip.data[3 * plane + 5], Float(clip[15]))  // the second frame, red, the sixth pixel
            XCTAssertEqual(pixels.clip.data[15 * 3 * plane + plane], Float(manifest.preprocessing.imageMean[1]) * 255)  // padding, green
            XCTAssertEqual(pixels.video.data[2 * 3 * plane], Float(manifest.preprocessing.videoMean[0]) * 255)
        }
    }

    func testPlanesBecomeTheRGBOfPythonsDecoder() throws {
        for one in try cases("planes") {
            let name = try place(one, "name").string()
            let planes = try ["y", "u", "v"].map { try golden.array(place(one, $0)) }
            let matrix = try XCTUnwrap(ColorMatrix(rawValue: place(one, "matrix").string()))
            let expected = try image(place(one, "rgb"))
            for layout in Layout.allCases {
                let found = try layout.rgb(
                    planes.map { try $0.bytes() }, size: (planes[0].shape[1], planes[0].shape[0]), chroma: planes[1].shape[1],
                    matrix: matrix, fullRange: place(one, "range").string() == "full", rotation: place(one, "rotation").int())
                XCTAssertEqual(found, expected, "\(name), \(layout)")
            }
        }
    }

    func testKeyFramesAreSelected() throws {
        for one in try cases("key_frames") {
            let scores = try place(one, "scores").list { try $0.list { Float(try $0.double()) } }
            let selected = try place(one, "selected").list { try $0.list { try $0.int() } }
            let (topk, count) = (try place(one, "topk").bool(), try place(one, "count").int())
            XCTAssertEqual(
                selectKeyFrames(scores, topk: topk, count: count, tie: manifest.preprocessing.tieTolerance), selected, "\(scores)")
        }
        XCTAssertEqual(selectKeyFrames([[.nan, .nan]], topk: true, count: 2, tie: 1e-5), [[0, 1]])
    }

    func testTokensAreChosen() throws {
        for one in try cases("greedy") {
            XCTAssertEqual(try Sampler()(place(one, "logits").list { Float(try $0.double()) }), try place(one, "token").int())
        }
        for one in try cases("nucleus") {
            let (temperature, topP) = (try place(one, "temperature").double(), try place(one, "top_p").double())
            let sampler = try Sampler(temperature: temperature, topP: topP, seed: 0)
            let found = try sampler.probabilities(place(one, "logits").list { Float(try $0.double()) })
            let expected = try place(one, "probabilities").list { try $0.double() }
            XCTAssertEqual(found.map { $0 > 0 }, expected.map { $0 > 0 }, "\(temperature), \(topP)")
            for (a, b) in zip(found, expected) { XCTAssertEqual(a, b, accuracy: 1e-6) }
        }
    }

    func testTheReferenceIsWhole() throws {
        let reference = try golden.reference()
        XCTAssertEqual(reference.greedyIDs.count, 24)
        XCTAssertEqual(reference.lastLogits.count, manifest.model.vocabulary)
        XCTAssertEqual(reference.frameScores.shape, [2, 8])
        XCTAssertTrue(reference.ids.contains(manifest.prompt.placeholderID))
        XCTAssertTrue((1...16).contains(reference.frames.count))
    }
}

/// How a decoder lays planes into memory.
enum Layout: CaseIterable {
    case i420, nv12, nv21, cropped

    /// The planes y [H, W], u and v [h, w] laid out so, and read back.
    func rgb(
        _ planes: [[UInt8]], size: (width: Int, height: Int), chroma: Int, matrix: ColorMatrix, fullRange: Bool, rotation: Int
    ) throws -> RGBImage {
        let (left, top) = self == .cropped ? (6, 4) : (0, 0)
        let y = laid(planes[0], width: size.width, rowStride: size.width + 13, left: left, top: top)
        let step = self == .nv12 || self == .nv21 ? 2 : 1
        let stride = chroma * step + 10
        var u = laid(planes[1], width: chroma, rowStride: stride, step: step, left: left / 2, top: top / 2)
        var v = laid(planes[2], width: chroma, rowStride: stride, step: step, left: left / 2, top: top / 2)
        if step == 2 {  // one plane, the two interleaved: either begins a byte behind the other
            let both = zip(u, [0] + v).map { $0 | $1 } + v.suffix(1)
            let swapped = zip(v, [0] + u).map { $0 | $1 } + u.suffix(1)
            (u, v) = self == .nv12 ? (both, Array(both.dropFirst())) : (Array(swapped.dropFirst()), swapped)
        }
        return try y.withUnsafeBytes { y in
            try u.withUnsafeBytes { u in
                try v.withUnsafeBytes { v in
                    try Planes(
                        width: size.width, height: size.height, y: y, yRowStride: size.width + 13, u: u, v: v, uvRowStride: stride,
                        uvPixelStride: step, matrix: matrix, fullRange: fullRange, rotation: rotation, cropLeft: left, cropTop: top
                    ).rgb()
                }
            }
        }
    }

    private func laid(_ plane: [UInt8], width: Int, rowStride: Int, step: Int = 1, left: Int, top: Int) -> [UInt8] {
        let rows = plane.count / width
        var memory = [UInt8](repeating: 0, count: (top + rows - 1) * rowStride + (left + width - 1) * step + 1)
        for row in 0..<rows {
            for column in 0..<width { memory[(top + row) * rowStride + (left + column) * step] = plane[row * width + column] }
        }
        return memory
    }
}

/// Planes that no golden vector has.
final class PlanesTests: XCTestCase {
    private func rgb(
        width: Int = 4, height: Int = 2, lumaBytes: Int = 8, chromaBytes: Int = 2, rotation: Int = 0, mirrored: Bool = false
    ) throws -> RGBImage {
        let y = (0..<lumaBytes).map { UInt8($0 * 20) }
        let uv = [UInt8](repeating: 128, count: chromaBytes)
        return try y.withUnsafeBytes { y in
            try uv.withUnsafeBytes { uv in
                try Planes(
                    width: width, height: height, y: y, yRowStride: 4, u: uv, v: uv, uvRowStride: 2, uvPixelStride: 1, matrix: .bt601,
                    fullRange: true, rotation: rotation, mirrored: mirrored
                ).rgb()
            }
        }
    }

    /// The reds, row by row.
    private func reds(_ image: RGBImage) -> [[UInt8]] {
        (0..<image.height).map { row in (0..<image.width).map { image.data[(row * image.width + $0) * 3] } }
    }

    func testPicturesAreTurnedAndMirrored() throws {
        XCTAssertEqual(reds(try rgb()), [[0, 20, 40, 60], [80, 100, 120, 140]])
        XCTAssertEqual(reds(try rgb(mirrored: true)), [[60, 40, 20, 0], [140, 120, 100, 80]])
        XCTAssertEqual(reds(try rgb(rotation: 90)), [[80, 0], [100, 20], [120, 40], [140, 60]])
        XCTAssertEqual(reds(try rgb(rotation: 90, mirrored: true)), [[0, 80], [20, 100], [40, 120], [60, 140]])
        XCTAssertEqual(reds(try rgb(rotation: 180)), [[140, 120, 100, 80], [60, 40, 20, 0]])
        XCTAssertEqual(reds(try rgb(rotation: 180, mirrored: true)), [[80, 100, 120, 140], [0, 20, 40, 60]])
        XCTAssertEqual(reds(try rgb(rotation: 270)), [[60, 140], [40, 120], [20, 100], [0, 80]])
        XCTAssertEqual(reds(try rgb(rotation: 270, mirrored: true)), [[140, 60], [120, 40], [100, 20], [80, 0]])
    }

    func testPlanesThatAreTooShortAreRefused() throws {
        let wrong = [
            { try self.rgb(lumaBytes: 7) }, { try self.rgb(chromaBytes: 1) }, { try self.rgb(rotation: 45) }, { try self.rgb(width: 0) },
        ]
        for work in wrong { XCTAssertThrowsError(try work()) { XCTAssertEqual(($0 as? VideoGPTError)?.family, .video) } }
    }
}
