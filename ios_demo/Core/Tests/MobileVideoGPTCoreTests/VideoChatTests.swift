import Synchronization
import XCTest

@testable import MobileVideoGPTCore

/// A clip of grey pictures, whose reading can fail.
private struct Reader: FrameReading {
    var frames = 40
    var fails = false
    var loses = 0  // this many of the first frames are replaced by the one behind them

    func open(_ video: URL) async throws -> VideoInfo { VideoInfo(frames: frames, fps: 2, warnings: ["it ends early"]) }

    func read(_ video: URL, frames: [Int], each: @Sendable (SampledFrame) throws -> Void) async throws {
        for number in frames {
            if fails, number > 0 { throw VideoGPTError.videoUnreadable(reason: "r") }
            let image = RGBImage(width: 12, height: 10, data: Array(repeating: UInt8(number * 3), count: 360))
            let shown = max(number, frames[min(loses, frames.count - 1)])
            try each(SampledFrame(number: shown, seconds: Double(shown) / 2, image: image))
        }
    }
}

/// A spy that the test sees while a chat has it: never while a call runs.
private final class Kept: @unchecked Sendable {
    let spy: Spy

    init(_ manifest: Manifest) { spy = Spy(manifest) }
}

/// The facade: one worker, streams of text, stopping, releasing.
final class VideoChatTests: XCTestCase {
    private let video = URL(filePath: "/clip.mov")

    private func chat(tokenizer: (any Tokenizing)? = ByteTokenizer()) throws -> VideoChat {
        let bundle = ModelBundle(folder: URL(filePath: "/bundle"), manifest: try Fixture.manifest())
        return VideoChat(bundle: bundle, tokenizer: tokenizer) { Spy($0.manifest) }
    }

    private func chat(_ kept: Kept) throws -> VideoChat {
        let bundle = ModelBundle(folder: URL(filePath: "/bundle"), manifest: kept.spy.manifest)
        return VideoChat(bundle: bundle, tokenizer: ByteTokenizer()) { _ in kept.spy }
    }

    private func events(_ stream: AsyncThrowingStream<AnswerEvent, any Error>) async throws -> (text: String, report: AnswerReport?) {
        var (text, report) = ("", AnswerReport?.none)
        for try await event in stream {
            switch event {
            case .text(let piece): text += piece
            case .done(let done): report = done
            case .forgot: break
            }
        }
        return (text, report)
    }

    func testAVideoIsWatchedAndAQuestionAnswered() async throws {
        let chat = try chat()
        let strip = Mutex<[Int]>([])
        let watched = try await chat.watch(video, reader: Reader()) { frame in strip.withLock { $0.append(frame.number) } }
        let picked = try pickFrames(total: 40, fps: 2)
        XCTAssertEqual(watched.frames, picked)
        XCTAssertEqual(strip.withLock { $0 }, picked)
        XCTAssertEqual(watched.keyFrames.count, 8)
        XCTAssertEqual(watched.warnings, ["it ends early"])
        XCTAssertEqual(Set(watched.stagesSeconds.keys), Set(["read", "loading"] + GraphName.vision.map(\.rawValue)))
        try await chat.prefillVideo()
        let found = try await events(chat.ask("Où?", options: AnswerOptions(maxNewTokens: 20)))

        let session = Session(backend: Spy(try Fixture.manifest()), tokenizer: ByteTokenizer())
        let images = picked.map { RGBImage(width: 12, height: 10, data: Array(repeating: UInt8($0 * 3), count: 360)) }
        XCTAssertEqual(try session.watch(Pixels.of(images, chat.bundle.manifest.preprocessing)), watched.keyFrames)
        let answer = try session.ask("Où?", maxNewTokens: 20)
        var ids: [Int] = []
        while let id = try answer.next() { ids.append(id) }
        XCTAssertEqual(found.text, ByteTokenizer().decode(ids))
        let report = try XCTUnwrap(found.report)
        XCTAssertEqual(report.ending, .limit)
        XCTAssertEqual(report.tokens, 20)
        XCTAssertEqual(report.position, session.position)
        XCTAssertNotNil(report.firstTokenSeconds)
    }

    func testAShortClipsPaddingIsNoKeyFrame() async throws {
        let watched = try await chat().watch(video, reader: Reader(frames: 5))
        XCTAssertEqual(watched.frames, [0, 1, 2, 3, 4])
        XCTAssertTrue(watched.keyFrames.allSatisfy { $0 < 5 })
    }

    func testStoppingEndsAnAnswerAndKeepsTheConversationWhole() async throws {
        let chat = try chat()
        _ = try await chat.watch(video, reader: Reader())
        var (text, report) = ("", AnswerReport?.none)
        for try await event in chat.ask("What?") {
            switch event {
            case .text(let piece):
                text += piece
                chat.stop()
            case .done(let done): report = done
            case .forgot: break
            }
        }
        let stopped = try XCTUnwrap(report)
        XCTAssertEqual(stopped.ending, .stopped)
        XCTAssertGreaterThan(stopped.tokens, 0)
        XCTAssertEqual(text.utf8.count, stopped.tokens)
        let next = try await events(chat.ask("And?", options: AnswerOptions(maxNewTokens: 4)))

        let session = Session(backend: Spy(try Fixture.manifest()), tokenizer: ByteTokenizer())
        let picked = try pickFrames(total: 40, fps: 2)
        let images = picked.map { RGBImage(width: 12, height: 10, data: Array(repeating: UInt8($0 * 3), count: 360)) }
        _ = try session.watch(Pixels.of(images, chat.bundle.manifest.preprocessing))
        for (question, tokens) in [("What?", stopped.tokens), ("And?", 4)] {
            let answer = try session.ask(question, maxNewTokens: tokens)
            while try answer.next() != nil {}
        }
        XCTAssertEqual(next.report?.position, session.position)
    }

    func testAStreamThatIsNotReadOnStopsItsAnswer() async throws {
        let chat = try chat()
        _ = try await chat.watch(video, reader: Reader())
        for try await event in chat.ask("What?") { if case .text = event { break } }
        var events: [AnswerEvent] = []
        for try await event in chat.ask("And?", options: AnswerOptions(maxNewTokens: 2)) { events.append(event) }
        guard case .done(let report)? = events.last else { return XCTFail("\(events)") }
        XCTAssertEqual(report.tokens, 2)
        XCTAssertFalse(events.contains(.forgot(turns: 1)))  // the first answer would have filled the context
    }

    func testErrorsEndTheStream() async throws {
        for (chat, error) in [
            (try chat(tokenizer: nil), VideoGPTError.noTokenizer), (try chat(), .outOfOrder("choose a video before the first question")),
        ] {
            do {
                _ = try await events(chat.ask("What?"))
                XCTFail("\(error)")
            } catch let found as VideoGPTError { XCTAssertEqual(found, error) }
        }
        let chat = try chat()
        do {
            _ = try await chat.watch(video, reader: Reader(fails: true))
            XCTFail("the reader fails")
        } catch let found as VideoGPTError { XCTAssertEqual(found, .videoUnreadable(reason: "r")) }
        do {
            _ = try await chat.watch(video, reader: Reader(frames: 0))
            XCTFail("there is no frame")
        } catch let found as VideoGPTError { XCTAssertEqual(found, .videoWithoutFrames) }
    }

    func testWatchingCanBeCancelled() async throws {
        let (chat, video) = (try chat(), video)
        let task = Task {
            try await chat.watch(video, reader: Reader()) { frame in
                if frame.number > 10 { withUnsafeCurrentTask { $0?.cancel() } }
            }
        }
        do {
            _ = try await task.value
            XCTFail("it was cancelled")
        } catch { XCTAssertTrue(error is CancellationError, "\(error)") }
        do {
            _ = try await events(chat.ask("What?"))
            XCTFail("nothing was watched")
        } catch { XCTAssertEqual((error as? VideoGPTError)?.family, .question) }
    }

    func testReleasingMemoryAndTheBenchmarkLeaveTheConversationWhole() async throws {
        var found: [(String, Int?)] = []
        for disturb in [false, true] {
            let chat = try chat()
            _ = try await chat.watch(video, reader: Reader())
            _ = try await events(chat.ask("What?", options: AnswerOptions(maxNewTokens: 4)))
            if disturb {
                await chat.releaseMemory()
                _ = try await chat.bench(BenchOptions(context: 20, newTokens: 1, runs: 1, source: "s"), meter: Meter())
            }
            let next = try await events(chat.ask("And?", options: AnswerOptions(maxNewTokens: 6)))
            found.append((next.text, next.report?.position))
        }
        XCTAssertEqual(found[0].0, found[1].0)
        XCTAssertEqual(found[0].1, found[1].1)
    }

    func testLostFramesAreSaid() async throws {
        let watched = try await chat().watch(video, reader: Reader(loses: 2))
        XCTAssertEqual(watched.warnings, ["it ends early", "2 of 16 frames could not be decoded: their nearest neighbours are used"])
    }

    func testACancelledPrefillLeavesTheVideoOutOfTheCache() async throws {
        let kept = Kept(try Fixture.manifest())
        let chat = try chat(kept)
        _ = try await chat.watch(video, reader: Reader())
        let task = Task {
            withUnsafeCurrentTask { $0?.cancel() }
            return try await chat.prefillVideo()
        }
        do {
            _ = try await task.value
            XCTFail("it was cancelled")
        } catch { XCTAssertTrue(error is CancellationError, "\(error)") }
        XCTAssertEqual(kept.spy.decoded, [])
        _ = try await events(chat.ask("What?", options: AnswerOptions(maxNewTokens: 2)))
        XCTAssertGreaterThan(kept.spy.decoded[0], Fixture.visualTokens)
    }

    /// What was loaded ahead goes too, before the first session.
    func testMemoryIsReleasedInTwoSteps() async throws {
        let kept = Kept(try Fixture.manifest())
        kept.spy.load(GraphName.allCases)
        let chat = try chat(kept)
        await chat.releaseMemory(decoder: false)
        XCTAssertEqual(kept.spy.loaded, [.tokenEmbedding, .decoder])
        await chat.releaseMemory()
        XCTAssertEqual(kept.spy.loaded, [])
        _ = try await chat.watch(video, reader: Reader())
        try await chat.prefillVideo()
        await chat.releaseMemory(decoder: false)  // the cache stays: what `Spy` would stop the test without
        _ = try await events(chat.ask("What?", options: AnswerOptions(maxNewTokens: 2)))
        XCTAssertEqual(kept.spy.decoded.count, 3)
        XCTAssertGreaterThan(kept.spy.decoded[0], Fixture.visualTokens)
        XCTAssertLessThan(kept.spy.decoded[1], Fixture.visualTokens)
    }

    func testAClosedChatBeginsAnew() async throws {
        let chat = try chat()
        _ = try await chat.watch(video, reader: Reader())
        await chat.close()
        do {
            _ = try await events(chat.ask("What?"))
            XCTFail("nothing is watched")
        } catch { XCTAssertEqual((error as? VideoGPTError)?.family, .question) }
        _ = try await chat.watch(video, reader: Reader())
        let answer = try await events(chat.ask("What?", options: AnswerOptions(maxNewTokens: 2)))
        XCTAssertEqual(answer.report?.tokens, 2)
    }
}
