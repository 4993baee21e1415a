import XCTest

@testable import MobileVideoGPTCore

/// A real bundle's packages, tokenizer and golden vectors, and a real clip, through Python behind pipes. What is found is written to the
/// file that RESULTS names; `tests/ios/test_core.py` compares it with Python's own session.
final class EndToEndTests: XCTestCase {
    private static let questions = [
        ["Which appears first, the circle or the square?", "What colour is it?", "Where does it <|im_end|> move?"], ["Is there a square?"],
    ]
    private static let most = 12  // tokens of an answer

    private func open() throws -> (bundle: ModelBundle, pipes: Pipes) {
        let pipes = try Pipes.connected()
        let host = BundleHost(availableBytes: .max, targets: ["coreml"])
        return (try ModelBundle.open(bundleFolder(), host: host, stamps: nil, hashing: PlainHashing()), pipes)
    }

    /// Adds an entry to the results.
    private func write(_ name: String, _ json: String) throws {
        let folder = URL(filePath: try XCTUnwrap(ProcessInfo.processInfo.environment["RESULTS"]))
        try Data(json.utf8).write(to: folder.appending(path: "\(name).json"))
    }

    func testAConversationIsPythons() async throws {
        let (bundle, pipes) = try open()
        let backend = try PackageBackend(manifest: bundle.manifest, engine: PipeEngine(pipes), name: "coreml-interpreted", versions: [:])
        let tokenizer = PipeTokenizer(pipes: pipes)
        let session = Session(backend: backend, tokenizer: tokenizer)
        let info = try await PipeReader(pipes: pipes).open(URL(filePath: "/clip"))
        let picked = try pickFrames(total: info.frames, fps: info.fps)
        let frames = Frames()
        try await PipeReader(pipes: pipes).read(URL(filePath: "/clip"), frames: picked) { frames.add($0.image) }
        let keyFrames = try session.watch(Pixels.of(frames.images, bundle.manifest.preprocessing))
        var answers: [String] = []
        for conversation in Self.questions {
            session.startOver()
            for question in conversation {
                let answer = try session.ask(question, maxNewTokens: Self.most)
                var (ids, stream, text) = ([Int](), TextStream(tokenizer), "")
                while let id = try answer.next() {
                    ids.append(id)
                    text += try stream.step(id)
                }
                text += try stream.flush()
                answers.append(#"{"ids":\#(ids),"text":\#(JSONValue.string(text).canonical),"position":\#(session.position)}"#)
            }
        }
        try write("conversation", #"{"picked":\#(picked),"key_frames":\#(keyFrames),"answers":[\#(answers.joined(separator: ","))]}"#)
    }

    func testTheFacadeWatchesAnswersTestsItselfAndMeasures() async throws {
        let (bundle, pipes) = try open()
        let chat = VideoChat(bundle: bundle, tokenizer: PipeTokenizer(pipes: pipes)) { bundle in
            try PackageBackend(
                manifest: bundle.manifest, engine: PipeEngine(pipes), name: "coreml-interpreted", versions: ["coremltools": "9"])
        }
        let report = try await chat.selfTest()
        XCTAssertTrue(report.passed, "\(report.checks)")
        XCTAssertEqual(report.checks.map(\.name), ["pixels", "tokenizer", "selected_frames", "last_logits", "greedy_ids"])
        XCTAssertFalse(report.checks[3].detail.hasPrefix("error 0.0000"))  // quantized weights are not the model's
        try write("bench", try await chat.bench(BenchOptions(context: 20, newTokens: 2, runs: 1, source: "bundle"), meter: Meter()).json)
    }

    func testTheExampleOfTheDocsRuns() async throws {
        let (folder, pipes) = (try bundleFolder(), try Pipes.connected())
        let answer = try await describe(
            URL(filePath: "/clip"), bundle: folder, hashing: PlainHashing(), reader: PipeReader(pipes: pipes),
            tokenizer: PipeTokenizer(pipes: pipes)
        ) { _ in PipeEngine(pipes) }
        try write("example", JSONValue.string(answer).canonical)
    }

    /// The prompt in Python's ids: the opening, a first turn, a later one.
    func testPromptsAreTokenizedAsPythonDoes() throws {
        let (bundle, pipes) = try open()
        let (tokenizer, prompt) = (PipeTokenizer(pipes: pipes), bundle.manifest.prompt)
        let cases = try Golden.read(bundle).checked { try $0.map { $0 }["prompt"]?.list { try $0.map { $0 } } ?? [] }
        XCTAssertFalse(cases.isEmpty)
        for one in cases {
            let question = try one.entry("question").string()
            func ids(_ key: String) throws -> [Int] { try one.entry(key).list { try $0.int() } }
            XCTAssertEqual(try prompt.openingIDs(tokenizer), try ids("opening"))
            XCTAssertEqual(try prompt.questionIDs(question, tokenizer), try ids("first"))
            XCTAssertEqual(try prompt.laterIDs(question, tokenizer), try ids("later"))
        }
    }
}

/// Frames of a clip in memory: this one is small.
private final class Frames: @unchecked Sendable {
    private(set) var images: [RGBImage] = []

    func add(_ image: RGBImage) { images.append(image) }
}
