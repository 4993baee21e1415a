import Foundation

/// A question and its answer, as ids. `first`: how the question reads behind the video, `later`: behind another answer; one of them is
/// missing where the question was asked in ids.
struct Turn: Equatable {
    var first: [Int]?
    var later: [Int]?
    var answer: [Int] = []
}

/// What the cache holds, as one value, so that an interruption finds it old or new: its tokens, those of the last answer that it does not
/// hold yet, and the conversation.
struct Held: Equatable {
    var position = 0
    var unfed: [Int] = []
    var turns: [Turn] = []
}

/// A conversation about one video: watch, ask, ask again. It knows no backend.
///
/// The decoder's cache holds the conversation so far; a later question prefills its own tokens only. What stands before the first
/// question, the system's words and the video, is the same in every conversation: it is prefilled once, others begin behind it
/// (`startOver`). When a question does not leave room for an answer any more, the oldest turns are forgotten: the video stays, and as many
/// of the last turns as leave that room; `forgotten` counts the others.
///
/// The graphs that watched a clip are freed until the next one: a conversation runs in half the memory. One thread at a time.
public final class Session {
    /// The release's limit.
    public static let maxNewTokens = 1024
    /// Tokens that forgetting leaves for an answer.
    public static let answerRoom = 128

    public let backend: any GraphBackend
    /// Ids that end an answer.
    public let stopIDs: Set<Int>
    /// Seconds of each graph while watching, and of `loading`.
    public private(set) var stagesSeconds: [String: Double] = [:]
    /// Turns of this conversation that did not fit any more.
    public private(set) var forgotten = 0

    var held = Held()
    private let tokenizer: (any Tokenizing)?
    private let clock: () -> Double
    private var visual: FloatTensor?  // [V, D]
    private var opening: [Int]?  // the ids before the video, where the cache begins with them and the video

    private var prompt: PromptTemplate { backend.manifest.prompt }

    /// `tokenizer` turns text into ids; without it only ids can be asked. `clock` counts seconds.
    public init(backend: any GraphBackend, tokenizer: (any Tokenizing)?, clock: @escaping () -> Double = monotonicSeconds) {
        self.backend = backend
        self.tokenizer = tokenizer
        self.clock = clock
        stopIDs = Set(backend.manifest.model.stopIDs)
    }

    /// Tokens in the cache.
    public var position: Int { held.position }

    /// Whether the conversation has as many tokens as the context.
    public var full: Bool { held.position + held.unfed.count >= backend.maxContext }

    /// Whether a clip was watched, so that a question can be asked.
    public var watched: Bool { visual != nil }

    /// Takes in a clip and begins a conversation. The pixels are not kept.
    ///
    /// Returns the key frames' indices, ascending, of all frames: those beyond the frames that were sampled are padding.
    public func watch(_ pixels: Pixels) throws -> [Int] {
        visual = nil
        opening = nil
        startOver()
        stagesSeconds = [:]
        let timed = TimedBackend(backend, clock: clock)
        defer {
            stagesSeconds = timed.seconds
            backend.release(GraphName.vision)
        }
        let seen = try visualTokens(timed, pixels)
        visual = seen.tokens
        return keyFrameIndices(seen.selected, backend.manifest.preprocessing)
    }

    /// Puts the system's words and the video into the cache, ahead of the first question: while it is still being asked, say.
    public func prefillVideo() throws {
        guard opening == nil, held.position == 0 else { return }
        let ids = try prompt.openingIDs(tokenizerOrThrow())
        try checkFits(backend, position: 0, new: ids.count + backend.manifest.visualTokens)
        _ = try backend.decode(promptEmbeds(backend, ids + [prompt.placeholderID], watchedTokens()), at: 0)
        opening = ids
    }

    /// The ids of a question in words, as the conversation's next turn. Throws `promptTooLong` where they do not fit the context, even
    /// where all earlier turns are forgotten.
    public func promptIDs(_ question: String) throws -> [Int] { try promptIDs(turn(question)) }

    /// Asks in words; the answer's ids come from `Answer.next`. Where the question leaves no room for an answer (`answerRoom` tokens, or
    /// `maxNewTokens`), the oldest turns are forgotten first.
    public func ask(
        _ question: String, sampler: any TokenSampler = Sampler(), maxNewTokens: Int = Session.maxNewTokens
    ) throws -> Answer {
        let turn = try turn(question)
        var ids = try promptIDs(turn)
        let whole = position > 0 || held.turns.isEmpty  // else a first token behind what was kept never came
        let room = min(Session.answerRoom, maxNewTokens)
        if try !whole || !fits(ids, room: held.turns.isEmpty ? 1 : room) {
            let kept: [Turn]
            (kept, ids) = try shortened(turn, room: room)
            forgotten += held.turns.count - kept.count
            held = Held(turns: kept)
        }
        return try begin(ids, turn, sampler, maxNewTokens)
    }

    /// Prefills `ids` behind what the cache holds and gives the answer's ids until a stop id, the limit, or a full context.
    ///
    /// The first turn's ids hold a run of placeholders for the video. An answer that is not asked for more, or that fails, leaves the
    /// conversation whole: what was given belongs to it, and a question whose answer never began does not. Throws `promptTooLong`, before
    /// anything is computed.
    public func answer(
        _ ids: [Int], sampler: any TokenSampler = Sampler(), maxNewTokens: Int = Session.maxNewTokens
    ) throws -> Answer {
        _ = try watchedTokens()
        let (position, new) = try growth(ids)
        try checkFits(backend, position: position, new: new)
        if self.position > 0 { return try begin(ids, Turn(later: ids), sampler, maxNewTokens) }
        held = Held()
        return try begin(ids, Turn(first: prompt.splitAtVisualTokens(ids).after), sampler, maxNewTokens)
    }

    /// Begins another conversation about the same clip: its video is in the cache already, only the question is prefilled.
    public func startOver() {
        held = Held()
        forgotten = 0
    }

    /// Frees all graphs, the decoder's cache among them. The conversation stays: the next question feeds it in again.
    public func releaseMemory() {
        backend.release(GraphName.allCases)
        held = Held(turns: held.turns)
        opening = nil
    }

    /// Lets others write to the cache, and frees it behind them: the conversation stays, as with `releaseMemory`.
    func lendingBackend<Result>(_ work: (any GraphBackend) throws -> Result) rethrows -> Result {
        defer { releaseMemory() }
        return try work(backend)
    }

    /// The opening is in the cache from the moment that the decoder took it.
    func took(opening: [Int]?) { self.opening = opening }

    private func begin(_ ids: [Int], _ turn: Turn, _ sampler: any TokenSampler, _ maxNewTokens: Int) throws -> Answer {
        if position == 0 {
            let (start, embeds) = try firstTurn(ids)
            let opening = try prompt.splitAtVisualTokens(ids).before
            return Answer(self, embeds, start, turn, sampler, maxNewTokens, opening)
        }
        let embeds = try embed(backend, held.unfed + ids)
        return Answer(self, embeds, position, turn, sampler, maxNewTokens, opening)
    }

    private func turn(_ question: String) throws -> Turn {
        let tokenizer = try tokenizerOrThrow()
        return Turn(first: try prompt.questionIDs(question, tokenizer), later: try prompt.laterIDs(question, tokenizer))
    }

    private func promptIDs(_ turn: Turn) throws -> [Int] {
        let whole = try fromTheBeginning(turn)
        let ids = position > 0 ? turn.later ?? [] : whole
        if try !fits(ids) { try checkFits(backend, position: 0, new: tokens(whole)) }
        return ids
    }

    /// The ids of a whole conversation, its last answer included.
    private func fromTheBeginning(_ first: Turn, _ later: ArraySlice<Turn> = []) throws -> [Int] {
        var ids = try prompt.openingIDs(tokenizerOrThrow()) + [prompt.placeholderID] + (first.first ?? []) + first.answer
        for one in later { ids += (one.later ?? []) + one.answer }
        return ids
    }

    /// As many of the last turns as leave `room` behind `turn`, and the ids of all that from the beginning on.
    private func shortened(_ turn: Turn, room: Int) throws -> ([Turn], [Int]) {
        for forgotten in 0...held.turns.count {
            let kept = Array(held.turns[forgotten...])
            let all = kept + [turn]
            guard all[0].first != nil, all.dropFirst().allSatisfy({ $0.later != nil }) else { continue }
            let ids = try fromTheBeginning(all[0], all.dropFirst())
            if kept.isEmpty || MobileVideoGPTCore.fits(backend, position: 0, new: tokens(ids), room: room) { return (kept, ids) }
        }
        preconditionFailure("a turn in words fits by itself: promptIDs checks it")
    }

    /// Where a first turn begins in the cache, and its embeddings: without the opening, where the cache holds it already.
    private func firstTurn(_ ids: [Int]) throws -> (Int, FloatTensor) {
        let visual = try watchedTokens()
        let (before, after) = try prompt.splitAtVisualTokens(ids)
        if before == opening, !after.isEmpty { return (before.count + visual.rows, try embed(backend, after)) }
        opening = nil  // until it is in the cache: an interruption may come first
        return (0, try promptEmbeds(backend, ids, visual))
    }

    private func tokenizerOrThrow() throws -> any Tokenizing {
        guard let tokenizer else { throw VideoGPTError.noTokenizer }
        return tokenizer
    }

    private func watchedTokens() throws -> FloatTensor {
        guard let visual else { throw VideoGPTError.outOfOrder("choose a video before the first question") }
        return visual
    }

    /// Tokens that a first turn's ids take in the cache.
    private func tokens(_ ids: [Int]) -> Int { ids.count { $0 >= 0 } + backend.manifest.visualTokens }

    private func fits(_ ids: [Int], room: Int = 1) throws -> Bool {
        let (position, new) = try growth(ids)
        return MobileVideoGPTCore.fits(backend, position: position, new: new, room: room)
    }

    /// Tokens in the cache, and how many come behind them.
    private func growth(_ ids: [Int]) throws -> (Int, Int) {
        position == 0 ? (0, tokens(ids)) : (position, held.unfed.count + ids.count)
    }
}

/// Seconds of a clock that is never set.
public func monotonicSeconds() -> Double { Double(DispatchTime.now().uptimeNanoseconds) / 1e9 }
