import XCTest

@testable import MobileVideoGPTCore

struct Meter: DeviceMeter {
    let device = "test"
    let threads = 2
    let versions = ["system": "1"]
    func peakBytes() -> Int { 123 }
    func processAgeSeconds() -> Double { 30 }
    func thermalState() -> String { "nominal" }
}

/// The benchmark: numbers that add up, whatever the machine's speed.
final class BenchTests: XCTestCase {
    private func run(_ spy: Spy, _ options: BenchOptions, _ progress: (String) -> Void = { _ in }) throws -> BenchReport {
        try Bench(backend: spy, meter: Meter(), clock: spy.clock).run(options, progress: progress)
    }

    func testAVideoGoesThroughEveryStage() throws {
        let spy = Spy(try Fixture.manifest())
        spy.seconds = 0.5
        var lines: [String] = []
        let report = try run(spy, BenchOptions(newTokens: 3, runs: 2, source: "s")) { lines.append($0) }
        XCTAssertEqual(
            report.stages.map(\.name),
            [
                "loading", "image_encoder", "frame_scorer", "video_encoder", "image_projector", "video_projector", "token_embedding",
                "prefill",
            ])
        let tokens = Fixture.visualTokens + 30
        XCTAssertEqual(spy.decoded, Array(repeating: [tokens, 1, 1, 1, 15], count: 3).flatMap { $0 })
        XCTAssertEqual(report.contextTokens, tokens)
        XCTAssertEqual(report.ttftSeconds, 8 * 0.5)  // six graphs, the embedding twice as before and behind the video is 7, and the prefill
        XCTAssertEqual(report.answerSeconds, report.ttftSeconds + 3)  // a step is an embedding and a decoder call
        XCTAssertEqual(report.decodeTokensPerSecond, 1)
        XCTAssertEqual(report.againTTFTSeconds, 1)
        XCTAssertEqual(report.prefillTokensPerSecond, Double(tokens) / 0.5)
        XCTAssertEqual(report.coldTTFTSeconds, 30)
        XCTAssertEqual(lines.count, 3)
        XCTAssertTrue(lines[0].hasPrefix("warm-up: first token after 4.000 s, then 1.0 tokens/s"), lines[0])
        XCTAssertTrue(spy.loaded.isDisjoint(with: GraphName.vision))
    }

    func testAContextStandsForAVideo() throws {
        let spy = Spy(try Fixture.manifest())
        spy.seconds = 0.5
        let report = try run(spy, BenchOptions(context: 60, newTokens: 2, runs: 1, source: "s"))
        XCTAssertEqual(report.stages.map(\.name), ["loading", "prefill"])
        XCTAssertEqual(spy.decoded, [60, 1, 1, 15, 60, 1, 1, 15])
        XCTAssertEqual(Set(spy.ran), [.tokenEmbedding])
    }

    func testTheReportHoldsMedians() {
        let runs = [(1.0, 9.0, [0.5, 0.5, 9]), (3, 4, [0.25, 0.25]), (7, 2, [0.25, 0.25, 9])].map { video, prefill, steps in
            BenchRun(
                contextTokens: 200, stagesSeconds: ["video_encoder": video, "prefill": prefill], samplingSeconds: 0.5, stepsSeconds: steps,
                againSeconds: prefill / 100, firstTokenAtSeconds: 0)
        }
        let summary = BenchSummary(runs)
        XCTAssertEqual(summary.stagesSeconds, ["video_encoder": 3, "prefill": 4])
        XCTAssertEqual(summary.answerSeconds, 19)  // of 20.5, 8 and 19
        XCTAssertEqual(summary.againSeconds, 0.04)
        XCTAssertEqual(summary.decodeTokensPerSecond, 3)  // of 1/9, 1/9, 2, 2, 4, 4, 4, 4 tokens a second
    }

    func testTheContextCanBeFilledToItsEnd() throws {
        let spy = Spy(try Fixture.manifest(context: 70))
        XCTAssertNoThrow(try run(spy, BenchOptions(context: 60, newTokens: 10, runs: 1, source: "s")))
        let wrong = [
            BenchOptions(context: 61, newTokens: 10, source: "s"), BenchOptions(newTokens: 0, source: "s"),
            BenchOptions(runs: 0, source: "s"), BenchOptions(context: 0, source: "s"),
            BenchOptions(context: .max, newTokens: .max, source: "s"),
        ]
        for options in wrong {
            XCTAssertThrowsError(try run(spy, options)) { XCTAssertEqual(($0 as? VideoGPTError)?.family, .question) }
        }
    }

    func testTheJSONIsOneLineInPythonsForm() throws {
        let report = try run(Spy(try Fixture.manifest()), BenchOptions(context: 5, newTokens: 1, runs: 1, source: "a \"b\"\n"))
        XCTAssertFalse(report.json.contains("\n"))
        let data = try XCTUnwrap(JSONSerialization.jsonObject(with: Data(report.json.utf8)) as? [String: Any])
        XCTAssertEqual(data["source"] as? String, "a \"b\"\n")
        XCTAssertTrue(report.json.contains(#""dtype": null"#))
        XCTAssertTrue(report.json.contains(#""thermal_state": {"before": "nominal", "after": "nominal"}"#))
    }
}
