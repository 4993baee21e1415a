import XCTest

@testable import MobileVideoGPTCore

/// A spy whose decoder computes something else: `bend` gets the number of the call and its logits.
private final class Bent: GraphBackend {
    private let spy: Spy
    private let bend: (Int, [Float]) -> [Float]
    private var calls = 0

    var manifest: Manifest { spy.manifest }
    var maxContext: Int { spy.maxContext }
    var name: String { spy.name }
    var versions: [String: String] { spy.versions }

    init(_ spy: Spy, _ bend: @escaping (Int, [Float]) -> [Float]) {
        self.spy = spy
        self.bend = bend
    }

    func run(_ graph: GraphName, _ input: FloatTensor) throws -> FloatTensor { try spy.run(graph, input) }
    func embed(_ ids: [Int]) throws -> FloatTensor { try spy.embed(ids) }
    func load(_ graphs: [GraphName]) { spy.load(graphs) }
    func release(_ graphs: [GraphName]) { spy.release(graphs) }

    func decode(_ embeds: FloatTensor, at position: Int) throws -> [Float] {
        defer { calls += 1 }
        return bend(calls, try spy.decode(embeds, at: position))
    }
}

/// The self-test passes for the graphs that were built, and for no others.
final class SelfTestTests: XCTestCase {
    private static let steps = 24

    /// Golden vectors as if the spy were the model. `noise`: how far the quantized bundle's logits are off, every other one upwards.
    /// `selected`: key frames in place of those that the spy's scores choose.
    private func golden(noise: Float = 0, threshold: Double = 0.1, selected: [[Int]]? = nil, equal: Int? = steps) throws -> Golden {
        let spy = Spy(try Fixture.manifest())
        let preprocessing = spy.manifest.preprocessing
        let frames = (0..<preprocessing.frames).map { number in
            RGBImage(width: 12, height: 10, data: (0..<360).map { UInt8(truncatingIfNeeded: $0 * 7 + number * 13) })
        }
        let ids = [256, 115] + Array(repeating: spy.manifest.prompt.placeholderID, count: Fixture.visualTokens) + [63, 258]
        let seen = try visualTokens(spy, Pixels.of(frames, preprocessing), forced: selected)
        let embeds = try promptEmbeds(spy, ids, seen.tokens)
        let first = try spy.decode(embeds, at: 0)
        var (logits, greedy) = (first, [Int]())
        for step in 0..<Self.steps {
            greedy.append(try Sampler()(logits))
            logits = try spy.decode(embed(spy, [greedy[step]]), at: embeds.rows + step)
        }
        let side = preprocessing.imageSize
        var arrays = Data()
        func place(_ shape: [Int], _ dtype: String, _ bytes: Data) -> String {
            defer { arrays += bytes + Data(count: (8 - bytes.count % 8) % 8) }
            return #"{"offset":\#(arrays.count),"shape":\#(shape),"dtype":"\#(dtype)"}"#
        }
        func floats(_ shape: [Int], _ values: [Float]) -> String { place(shape, "float32", values.withUnsafeBytes { Data($0) }) }
        let picture = [
            #""name":"one","source":\#(place([10, 12, 3], "uint8", Data(frames[0].data)))"#,
            #""clip":\#(place([side, side, 3], "uint8", Data(clipImage(frames[0], side: side))))"#,
            #""video":\#(place([side, side, 3], "uint8", Data(videoImage(frames[0], side: side))))"#,
        ]
        let reference = [
            #""frames":\#(place([frames.count, 10, 12, 3], "uint8", Data(frames.flatMap(\.data))))"#, #""ids":\#(ids)"#,
            #""selected_frames":\#(selected ?? seen.selected)"#, #""frame_scores":\#(floats([2, 8], seen.frameScores.flatMap { $0 }))"#,
            #""greedy_ids":\#(greedy),"metric":"row","threshold":\#(threshold),"equal_ids":\#(equal.map { "\($0)" } ?? "null")"#,
            #""last_logits":\#(floats([first.count], first.enumerated().map { $1 + ($0 % 2 == 0 ? noise : -noise) }))"#,
        ]
        let folder = try temporaryFolder(self)
        let text = #"{"version":1,"resize":[{\#(picture.joined(separator: ","))}],"reference":{\#(reference.joined(separator: ","))}}"#
        try Data(text.utf8).write(to: folder.appending(path: "golden.json"))
        try arrays.write(to: folder.appending(path: "golden.bin"))
        return try Golden.read(folder)
    }

    private func failed(_ golden: Golden, _ bend: @escaping (Int, [Float]) -> [Float] = { $1 }) throws -> [String] {
        try runSelfTest(Bent(Spy(try Fixture.manifest()), bend), golden, nil).checks.filter { !$0.passed }.map(\.name)
    }

    func testTheGraphsThatWereBuiltPass() throws {
        XCTAssertEqual(try failed(golden()), [])
        XCTAssertEqual(try failed(golden(equal: nil)), [])
        XCTAssertEqual(try failed(golden(noise: 1, threshold: 3)), [])
    }

    func testAnotherDecoderFails() throws {
        let rolled: ([Float]) -> [Float] = { Array($0.dropFirst()) + $0.prefix(1) }
        XCTAssertEqual(try failed(golden()) { rolled($1) }, ["last_logits", "greedy_ids"])
        XCTAssertEqual(try failed(golden()) { $1.reversed() }, ["last_logits", "greedy_ids"])
        XCTAssertEqual(try failed(golden()) { $1.map { $0 + 1 } }, ["last_logits"])
        XCTAssertEqual(try failed(golden()) { $0 == 0 ? $1 : $1.reversed() }, ["greedy_ids"])  // right for the prompt only
    }

    /// Coarse quantization excuses every single id: their number does not.
    func testNearTiesDoNotExcuseAnotherDecoder() throws {
        let coarse = try golden(noise: 1, threshold: 3)
        XCTAssertEqual(try failed(coarse) { $0 == 0 ? $1 : $1.reversed() }, ["greedy_ids"])
        func turned(_ steps: Int) throws -> [String] { try failed(coarse) { $0 > 0 && $0 <= steps ? $1.reversed() : $1 } }
        XCTAssertEqual(try turned(2), [])
        XCTAssertEqual(try turned(3), ["greedy_ids"])
        XCTAssertEqual(try failed(golden(noise: 1, threshold: 3, equal: 4)) { $0 > 0 ? $1.reversed() : $1 }, ["greedy_ids"])
    }

    func testOtherKeyFramesPassWithinTheErrorOfTheScoresOnly() throws {
        let wanted = [[2, 3, 5, 6], [0, 1, 4, 7]]
        XCTAssertEqual(try failed(golden(selected: wanted)), [])
        // 5 is better than 1 by 4, and no score is off.
        XCTAssertEqual(try failed(golden(selected: [[1, 2, 3, 6], wanted[1]])), ["selected_frames"])
        let near = Spy(try Fixture.manifest())
        near.scores[1] += 4.5  // now it is better than 5
        let report = try runSelfTest(near, try golden(), nil)
        XCTAssertTrue(report.passed, "\(report.checks)")
        XCTAssertEqual(report.checks.first { $0.name == "selected_frames" }?.detail, "1 of 8 differ within the score error")
    }
}
