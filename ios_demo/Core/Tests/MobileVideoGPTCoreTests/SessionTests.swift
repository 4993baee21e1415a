import XCTest

@testable import MobileVideoGPTCore

/// A conversation over the decoder's cache must be what one prefill of all of it would be, however its answers ended.
final class SessionTests: XCTestCase {
    private static let first = [10, 11, 12] + Array(repeating: -200, count: 16) + [13, 14]
    private static let second = [20, 21, 22, 23]
    private static let third = [30, 31]
    private static let other = [10, 11, 12, -200, 15, 16, 17]
    private static let words = ["What moves?", "Where to?", "How many?", "Which?"]
    private let first = SessionTests.first, second = SessionTests.second, third = SessionTests.third
    private let other = SessionTests.other, words = SessionTests.words
    private let tokenizer = ByteTokenizer()

    private var spy: Spy!
    private var pixels: Pixels!

    override func setUp() async throws {
        spy = Spy(try Fixture.manifest())
        var generator = SplitMix64(state: 1)
        func noise() -> FloatTensor {
            FloatTensor(shape: [16, 3, 8, 8], data: (0..<16 * 3 * 64).map { _ in Float.random(in: 0..<255, using: &generator) })
        }
        pixels = Pixels(clip: noise(), video: noise())
    }

    private func session(_ backend: Spy? = nil) throws -> Session {
        let session = Session(backend: backend ?? spy, tokenizer: tokenizer)
        _ = try session.watch(pixels)
        return session
    }

    /// The answer's ids, at most `take` of them; an interruption ends it.
    private func answer(
        _ session: Session, _ ids: [Int], _ sampler: any TokenSampler = Sampler(), take: Int = .max, maxNewTokens: Int = 1024
    ) throws -> [Int] {
        try collect(session.answer(ids, sampler: sampler, maxNewTokens: maxNewTokens), take: take)
    }

    private func collect(_ answer: Answer, take: Int = .max) -> [Int] {
        var said: [Int] = []
        while said.count < take, let id = try? answer.next() { said.append(id) }
        return said
    }

    /// How a first answer ended, how many ids it said, and how many of them the cache does not hold yet.
    private var endings: [(name: String, begin: (Session) throws -> [Int], length: Int, unfed: Int)] {
        let stop = Fixture.stops[0]
        return [
            ("stop", { try self.answer($0, self.first, Says(50, 51, 52, stop)) }, 3, 0),
            ("stop at once", { try self.answer($0, self.first, Says(stop)) }, 0, 0),
            ("limit", { try self.answer($0, self.first, Says(50, 51, 52), maxNewTokens: 3) }, 3, 1),
            ("dropped", { try self.answer($0, self.first, Says(50, 51, 52, 53), take: 3) }, 3, 1),
            ("interrupted in sampling", { try self.answer($0, self.first, Says(50, 51, 52)) }, 3, 1),
        ]
    }

    func testALaterTurnEqualsOnePrefillOfTheWholeConversation() throws {
        for ending in endings {
            spy.forget()
            let session = try session()
            let said = try ending.begin(session)
            XCTAssertEqual(said, Array([50, 51, 52].prefix(ending.length)), ending.name)
            let before = session.position
            spy.forget()
            _ = try answer(session, second, Says(60, 61, Fixture.stops[1]))
            XCTAssertEqual(spy.decoded, [ending.unfed + second.count, 1, 1], ending.name)  // its own tokens only
            XCTAssertEqual(session.position, before + spy.decoded.reduce(0, +))
            spy.forget()
            let third = try answer(session, third, maxNewTokens: 5)
            let inTurns = spy.logits
            XCTAssertEqual(Set(spy.ran), [.tokenEmbedding])

            spy.forget()
            let fresh = try self.session()
            XCTAssertEqual(try answer(fresh, first + said + second + [60, 61] + self.third, maxNewTokens: 5), third, ending.name)
            XCTAssertEqual(spy.decoded[0], Fixture.visualTokens + 5 + ending.length + second.count + 2 + self.third.count)
            XCTAssertEqual(spy.logits, inTurns, ending.name)
        }
    }

    func testAnInterruptInsideTheDecoderLosesNothingThatWasSaid() throws {
        for later in [false, true] {
            for call in [0, 2] {  // the prefill, a later step
                spy.forget()
                let session = try session()
                let earlier = later ? first + (try answer(session, first, Says(50, Fixture.stops[0]))) : []
                spy.forget()
                spy.failAt = call
                let question = later ? second : first
                let said = try answer(session, question, Says(70, 71, 72, 73))
                XCTAssertEqual(said, Array([70, 71].prefix(call)))
                spy.forget()
                let asked = said.isEmpty ? [] : question + said  // a question whose answer never began is not part of it
                let then = later || !asked.isEmpty ? second : first
                let resumed = try answer(session, then, maxNewTokens: 3)
                let inTurns = spy.logits
                spy.forget()
                let fresh = try self.session()
                XCTAssertEqual(try answer(fresh, earlier + asked + then, maxNewTokens: 3), resumed)
                XCTAssertEqual(spy.logits, inTurns)
            }
        }
    }

    func testEveryStopIDEndsAnAnswerAndIsNotPartOfIt() throws {
        let session = try session()
        for (question, stop) in zip([first, second], Fixture.stops) {
            XCTAssertEqual(try answer(session, question, Says(80, 81, stop, 82)), [80, 81])
        }
    }

    func testTheAnswerEndsWhereTheContextIsFull() throws {
        let session = try session()
        spy.maxContext = Fixture.visualTokens + 5 + 6  // the video, the question, and room for six
        XCTAssertEqual(try answer(session, first, Says(50, 51, 52, 53, 54, 55, 56, 57)), [50, 51, 52, 53, 54, 55])
        XCTAssertTrue(session.full)
        let held = session.position
        spy.forget()
        spy.maxContext = held + 1
        assertThrows(
            .promptTooLong(tokens: 5, after: held, context: held + 1, visual: Fixture.visualTokens), try session.answer(second))
        XCTAssertEqual(session.position, held)
        XCTAssertTrue(spy.ran.isEmpty && spy.decoded.isEmpty)
        spy.maxContext = held + 20  // nothing was lost: with room the conversation goes on
        XCTAssertEqual(try answer(session, second, Says(60, Fixture.stops[0])), [60])
        XCTAssertEqual(spy.decoded, [1 + second.count, 1])
    }

    func testAQuestionThatDoesNotFitCostsNothing() throws {
        let session = try session()
        spy.forget()
        spy.maxContext = Fixture.visualTokens + 5
        XCTAssertThrowsError(try session.answer(first)) { XCTAssertEqual(($0 as? VideoGPTError)?.family, .question) }
        XCTAssertTrue(spy.ran.isEmpty && spy.decoded.isEmpty)
        spy.maxContext += 1
        XCTAssertEqual(try answer(session, first, Says(50, 51)), [50])  // room for one token, and one is given
    }

    func testAModelThatBreaksDownLeavesTheConversationAsItWas() throws {
        let session = try session()
        _ = try answer(session, first, Says(50, 51), maxNewTokens: 2)
        let held = session.held
        let broken = try session.answer(second, sampler: Says())
        XCTAssertThrowsError(try broken.next())
        XCTAssertEqual(session.held, held)
        XCTAssertNil(try broken.next())  // it has ended
    }

    func testKeyFramesAreThoseOfTheScores() throws {
        let session = Session(backend: spy, tokenizer: nil, clock: spy.clock)
        spy.seconds = 0.25
        spy.scores = [8, 7, 6, 5, 4, 3, 2, 1, 1, 2, 3, 4, 5, 6, 7, 8]
        XCTAssertEqual(try session.watch(pixels), [0, 1, 2, 3, 12, 13, 14, 15])
        XCTAssertEqual(Set(session.stagesSeconds.keys), Set(["loading"] + GraphName.vision.map(\.rawValue)))
        XCTAssertEqual(session.stagesSeconds["video_encoder"], 0.25)
        XCTAssertTrue(spy.loaded.isDisjoint(with: GraphName.vision))  // freed
    }

    func testTheVideoEncoderSeesTheKeyFrames() throws {
        final class Watching: GraphBackend {
            let spy: Spy
            var seen: [FloatTensor] = []
            var manifest: Manifest { spy.manifest }
            var maxContext: Int { spy.maxContext }
            var name: String { spy.name }
            var versions: [String: String] { spy.versions }
            init(_ spy: Spy) { self.spy = spy }
            func run(_ graph: GraphName, _ input: FloatTensor) throws -> FloatTensor {
                if graph == .videoEncoder { seen.append(input) }
                return try spy.run(graph, input)
            }
            func embed(_ ids: [Int]) throws -> FloatTensor { try spy.embed(ids) }
            func decode(_ embeds: FloatTensor, at position: Int) throws -> [Float] { try spy.decode(embeds, at: position) }
            func load(_ graphs: [GraphName]) { spy.load(graphs) }
            func release(_ graphs: [GraphName]) { spy.release(graphs) }
        }
        let watching = Watching(spy)
        spy.scores = [1, 2, 3, 4, 5, 6, 7, 8, 8, 1, 7, 2, 6, 3, 5, 4]
        let picked = try Session(backend: watching, tokenizer: nil).watch(pixels)
        XCTAssertEqual(picked, [4, 5, 6, 7, 8, 10, 12, 14])
        XCTAssertEqual(watching.seen.first?.shape, [1, 8, 3, 8, 8])
        XCTAssertEqual(watching.seen.first?.data, picked.flatMap { pixels.video.slice($0..<$0 + 1).data })
    }

    func testWatchingAgainBeginsAnew() throws {
        let session = try session()
        let begun = try answer(session, first, maxNewTokens: 2)
        _ = try answer(session, second, Says(60), maxNewTokens: 1)
        _ = try session.watch(pixels)
        XCTAssertEqual(session.position, 0)
        XCTAssertFalse(session.full)
        spy.forget()
        XCTAssertEqual(try answer(session, first, maxNewTokens: 2), begun)
        XCTAssertEqual(spy.decoded[0], Fixture.visualTokens + 5)
    }

    func testWatchingThatFailsLeavesNoClip() throws {
        let session = try session()
        spy.scores = [.nan]  // a graph of another shape
        XCTAssertThrowsError(try session.watch(pixels))
        XCTAssertFalse(session.watched)
        XCTAssertTrue(spy.loaded.isDisjoint(with: GraphName.vision))
        assertThrows(.outOfOrder("choose a video before the first question"), try session.answer(first))
    }

    func testWordsAreAskedInTheReleasesTemplate() throws {
        let session = try session()
        let prompt = spy.manifest.prompt
        _ = collect(try session.ask(words[0], sampler: Says(50, 51), maxNewTokens: 2))
        _ = collect(try session.ask(words[1], sampler: Says(60), maxNewTokens: 1))
        let text = "<|im_start|>s<|im_end|>\n<|im_start|>u\n" + "\nWhat moves?<|im_end|>\n<|im_start|>a\n"
        let later = "<|im_end|>\n<|im_start|>u\nWhere to?<|im_end|>\n<|im_start|>a\n"
        XCTAssertEqual(
            spy.decoded, [tokenizer.encode(text).count + Fixture.visualTokens, 1, 1 + tokenizer.encode(later).count])
        XCTAssertEqual(try session.promptIDs("And then?"), try prompt.laterIDs("And then?", tokenizer))
        XCTAssertThrowsError(try session.promptIDs(String(repeating: "word ", count: 400)))
    }

    private var room: Int { Session.answerRoom }

    /// A long question and two short ones, each answered with five ids, in a context that a fourth does not fit.
    private func talked() throws -> Session {
        spy = Spy(try Fixture.manifest(context: 4000))
        let session = try session()
        for (i, question) in [String(repeating: "word ", count: 3 * room), words[0], words[1]].enumerated() {
            let ids = (0..<5).map { 50 + 10 * i + $0 }
            _ = collect(try session.ask(question, sampler: Says(ids[0], ids[1], ids[2], ids[3], ids[4], Fixture.stops[0])))
        }
        XCTAssertEqual(session.forgotten, 0)
        spy.forget()
        spy.maxContext = session.position + 5
        return session
    }

    /// What stands behind the video once the long question is forgotten.
    private func kept() throws -> [Int] {
        let prompt = spy.manifest.prompt
        return try prompt.questionIDs(words[0], tokenizer) + Array(60..<65) + prompt.laterIDs(words[1], tokenizer) + Array(70..<75)
    }

    func testWhenTheContextIsFullTheOldestTurnsAreForgottenAndTheVideoStays() throws {
        let session = try talked()
        let said = collect(try session.ask(words[2], maxNewTokens: 3))
        let inTurns = spy.logits
        let behind = try kept() + spy.manifest.prompt.laterIDs(words[2], tokenizer)
        XCTAssertEqual(session.forgotten, 1)
        XCTAssertEqual(spy.decoded[0], behind.count)
        XCTAssertEqual(Set(spy.ran), [.tokenEmbedding])
        let opening = try spy.manifest.prompt.openingIDs(tokenizer)
        spy.forget()
        XCTAssertEqual(try answer(self.session(), opening + [-200] + behind, maxNewTokens: 3), said)
        XCTAssertEqual(spy.logits, inTurns)
    }

    func testAQuestionThatFitsButLeavesNoRoomForAnAnswerMakesRoom() throws {
        let session = try talked()
        let question = try spy.manifest.prompt.laterIDs(words[2], tokenizer).count
        spy.maxContext = session.position + question + room - 1
        let short = try session.ask(words[2], sampler: Says(50, 51, 52, 53, 54, Fixture.stops[0]), maxNewTokens: room - 1)
        XCTAssertEqual(collect(short).count, 5)
        XCTAssertEqual(session.forgotten, 0)  // a short answer needs less room
        spy.maxContext = session.position + question + room - 1
        _ = collect(try session.ask(words[2], sampler: Says(50, Fixture.stops[0])))
        XCTAssertEqual(session.forgotten, 1)
    }

    func testAsManyOfTheLastTurnsAreKeptAsLeaveRoomForAnAnswer() throws {
        for (spare, forgotten) in [(0, 1), (-1, 2)] {
            let session = try talked()
            let prompt = spy.manifest.prompt
            let opening = try prompt.openingIDs(tokenizer).count
            let needed = try Fixture.visualTokens + opening + kept().count + prompt.laterIDs(words[2], tokenizer).count + room
            spy.maxContext = needed + spare
            _ = collect(try session.ask(words[2], sampler: Says(Fixture.stops[0])))
            XCTAssertEqual(session.forgotten, forgotten)
        }
    }

    func testWhereNoTurnLeavesRoomAllAreForgotten() throws {
        let session = try talked()
        let prompt = spy.manifest.prompt
        let question = try prompt.questionIDs(words[2], tokenizer).count
        spy.maxContext = try Fixture.visualTokens + prompt.openingIDs(tokenizer).count + question + 5
        _ = collect(try session.ask(words[2], sampler: Says(Fixture.stops[0])))
        XCTAssertEqual(session.forgotten, 3)
        XCTAssertEqual(spy.decoded, [question])
        let held = session.held
        XCTAssertThrowsError(try session.ask(String(repeating: "word ", count: 3 * room)))  // costs nothing
        XCTAssertEqual(session.held, held)
        XCTAssertEqual(session.forgotten, 3)
        session.startOver()
        XCTAssertEqual(session.forgotten, 0)  // another conversation has forgotten nothing
    }

    func testAnInterruptWhileTurnsAreFedInAgainLosesNoneOfThem() throws {
        let session = try talked()
        spy.failAt = 0
        XCTAssertThrowsError(try session.ask(words[2]).next())
        spy.forget()
        _ = collect(try session.ask(words[3], sampler: Says(Fixture.stops[0])))
        XCTAssertEqual(session.forgotten, 1)
        XCTAssertEqual(spy.decoded, try [kept().count + spy.manifest.prompt.laterIDs(words[3], tokenizer).count])
    }

    func testTheVideoCanBePrefilledBeforeTheQuestion() throws {
        let session = try session()
        spy.forget()
        try session.prefillVideo()
        try session.prefillVideo()
        XCTAssertEqual(spy.decoded, [try spy.manifest.prompt.openingIDs(tokenizer).count + Fixture.visualTokens])
        spy.forget()
        let said = collect(try session.ask(words[0], maxNewTokens: 3))
        XCTAssertEqual(spy.decoded[0], try spy.manifest.prompt.questionIDs(words[0], tokenizer).count)
        XCTAssertEqual(collect(try self.session().ask(words[0], maxNewTokens: 3)), said)
    }

    func testReleasedMemoryIsFedInAgain() throws {
        let session = try session()
        let said = collect(try session.ask(words[0], maxNewTokens: 4))
        session.releaseMemory()
        XCTAssertTrue(spy.loaded.isEmpty)
        spy.forget()
        let then = collect(try session.ask(words[1], maxNewTokens: 3))
        let behind = spy.logits
        XCTAssertEqual(session.forgotten, 0)
        spy.forget()
        let fresh = try self.session()
        XCTAssertEqual(collect(try fresh.ask(words[0], maxNewTokens: 4)), said)
        spy.forget()
        XCTAssertEqual(collect(try fresh.ask(words[1], maxNewTokens: 3)), then)
        XCTAssertEqual(spy.logits, behind)
    }

    func testASessionAskedOutOfOrderSaysSo() throws {
        assertThrows(.outOfOrder("choose a video before the first question"), try Session(backend: spy, tokenizer: nil).answer(first))
        assertThrows(.noTokenizer, try Session(backend: spy, tokenizer: nil).ask("What moves?"))
        assertThrows(
            .outOfOrder("choose a video before the first question"), try Session(backend: spy, tokenizer: tokenizer).ask("What moves?"))
        let session = try session()
        XCTAssertThrowsError(try session.answer([260, -200, 3])) { XCTAssertTrue("\($0)".contains("260 is outside the vocabulary")) }
        XCTAssertThrowsError(try session.answer([1, 2])) { XCTAssertTrue("\($0)".contains("no visual placeholder")) }
        XCTAssertThrowsError(try session.answer([-200, 1, -200])) { XCTAssertTrue("\($0)".contains("one run")) }
    }

    func testAnotherConversationBeginsBehindTheSameVideo() throws {
        let session = try session()
        _ = try answer(session, first, Says(50, 51, Fixture.stops[0]))
        _ = try answer(session, second, Says(52, Fixture.stops[0]))
        spy.forget()
        session.startOver()
        _ = try answer(session, other, Says(60, Fixture.stops[0]))
        _ = try answer(session, second, Says(Fixture.stops[0]))
        XCTAssertEqual(spy.decoded[0], 3)  // its own words alone
        XCTAssertFalse(spy.ran.contains(.imageEncoder))
        let behind = spy.logits
        let fresh = try self.session()
        spy.forget()
        _ = try answer(fresh, other, Says(60, Fixture.stops[0]))
        _ = try answer(fresh, second, Says(Fixture.stops[0]))
        XCTAssertEqual(spy.decoded[0], 3 + Fixture.visualTokens + 3)
        XCTAssertEqual(spy.logits, behind)
    }

    func testAConversationThatOpensOtherwisePrefillsTheVideoAgain() throws {
        for ids in [[9] + other.dropFirst(), Array(other.dropFirst())] {
            let session = try session()
            _ = try answer(session, first, Says(50, Fixture.stops[0]))
            session.startOver()
            spy.forget()
            _ = try answer(session, ids, Says(60, Fixture.stops[0]))
            XCTAssertEqual(spy.decoded[0], ids.count - 1 + Fixture.visualTokens)
        }
    }

    func testAVideoWhosePrefillWasInterruptedIsNotTakenForHeld() throws {
        let session = try session()
        spy.forget()
        spy.failAt = 0
        _ = try answer(session, first, Says(50))
        session.startOver()
        spy.forget()
        _ = try answer(session, other, Says(60, Fixture.stops[0]))
        XCTAssertEqual(spy.decoded[0], 3 + Fixture.visualTokens + 3)
    }

    func testAVideoThatAnInterruptedPrefillWroteOverIsNotTakenForHeld() throws {
        let session = try session()
        _ = try answer(session, first, Says(50, Fixture.stops[0]))
        session.startOver()
        spy.forget()
        spy.failAt = 0
        _ = try answer(session, [9] + other.dropFirst(), Says(60))  // opens otherwise, and is interrupted
        session.startOver()
        spy.forget()
        _ = try answer(session, other, Says(60, Fixture.stops[0]))  // opens as the first did
        XCTAssertEqual(spy.decoded[0], 3 + Fixture.visualTokens + 3)
    }

    func testAnotherClipIsPrefilledAnew() throws {
        let session = try session()
        _ = try answer(session, first, Says(50, Fixture.stops[0]))
        _ = try session.watch(pixels)
        spy.forget()
        _ = try answer(session, other, Says(60, Fixture.stops[0]))
        XCTAssertEqual(spy.decoded[0], 3 + Fixture.visualTokens + 3)
    }
}
