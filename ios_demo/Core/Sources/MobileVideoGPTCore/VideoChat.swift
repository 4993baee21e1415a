import Foundation
import Synchronization

/// How an answer is chosen.
public struct AnswerOptions: Sendable, Equatable {
    /// 0 takes the best token always.
    public var temperature: Double
    public var topP: Double
    public var seed: UInt64?
    public var maxNewTokens: Int

    public init(temperature: Double = 0, topP: Double = 1, seed: UInt64? = nil, maxNewTokens: Int = Session.maxNewTokens) {
        self.temperature = temperature
        self.topP = topP
        self.seed = seed
        self.maxNewTokens = maxNewTokens
    }
}

/// What watching a clip found and took.
public struct Watched: Sendable, Equatable {
    /// Numbers of the sampled frames, counted as decoded; empty where frames were given instead of a video.
    public let frames: [Int]
    /// Which of the sampled frames are key frames, ascending. A short clip's may lie beyond its frames: those are padding, left out here.
    public let keyFrames: [Int]
    /// Seconds of `read` (decoding and resizing), `loading` and each graph.
    public let stagesSeconds: [String: Double]
    public let warnings: [String]
}

/// What comes while an answer is given.
public enum AnswerEvent: Sendable, Equatable {
    /// So many turns of this conversation are forgotten by now, the video is not: the context was full.
    case forgot(turns: Int)
    /// Text that goes behind what came before; whole characters.
    case text(String)
    /// The last event of an answer that did not fail.
    case done(AnswerReport)
}

/// What an answer took.
public struct AnswerReport: Sendable, Equatable {
    public enum Ending: String, Sendable { case complete, stopped, limit, contextFull }

    public let ending: Ending
    public let tokens: Int
    /// Seconds from the question to its first token: prefill, where the video was watched before.
    public let firstTokenSeconds: Double?
    /// Steps behind the first token, a second.
    public let tokensPerSecond: Double?
    /// Tokens in the cache, of `maxContext`.
    public let position: Int
    public let maxContext: Int
}

/// A bundle, a video and a conversation, for an app: everything is computed on one worker queue of its own, answers come as a stream.
///
/// One call computes at a time; while `watch` reads a video, others may come between. `stop` ends the answers that are being given or wait.
/// Errors are `VideoGPTError`s.
public actor VideoChat {
    public nonisolated let bundle: ModelBundle
    public nonisolated var unownedExecutor: UnownedSerialExecutor { worker.asUnownedSerialExecutor() }

    private nonisolated let worker = Worker()
    private nonisolated let asked = AskedTasks()
    private let tokenizer: (any Tokenizing)?
    private let makeBackend: @Sendable (ModelBundle) throws -> any GraphBackend
    private var session: Session?

    /// `tokenizer`: of the bundle's tokenizer.json; without one nothing can be asked in words. `backend` is called on the worker, at the
    /// first use and at the first one after `close`.
    public init(
        bundle: ModelBundle, tokenizer: (any Tokenizing)?, backend: @escaping @Sendable (ModelBundle) throws -> any GraphBackend
    ) {
        self.bundle = bundle
        self.tokenizer = tokenizer
        makeBackend = backend
    }

    /// Samples a video, takes it in, and begins a conversation about it. `frame` gets each sampled frame, for a strip of pictures. Ends
    /// with `CancellationError` where the calling task is cancelled. A video that cannot be read leaves the one before in its place.
    public func watch(
        _ video: URL, reader: any FrameReading, frame: @escaping @Sendable (SampledFrame) -> Void = { _ in }
    ) async throws -> Watched {
        let started = monotonicSeconds()
        let preprocessing = bundle.manifest.preprocessing
        let info = try await reader.open(video)
        let picked = try pickFrames(total: info.frames, fps: info.fps, frames: preprocessing.frames)
        let builder = Mutex((pixels: PixelsBuilder(preprocessing), numbers: [Int]()))
        try await reader.read(video, frames: picked) { sampled in
            try Task.checkCancellation()
            builder.withLock {
                $0.pixels.add(sampled.image)
                $0.numbers.append(sampled.number)
            }
            frame(sampled)
        }
        let (built, numbers) = builder.withLock { $0 }
        guard built.count > 0 else { throw VideoGPTError.videoWithoutFrames }
        let keyFrames = try watch(built.finish())
        let seconds = try open().stagesSeconds
        let read = monotonicSeconds() - started - seconds.values.reduce(0, +)
        let lost = zip(numbers, picked).count { $0 != $1 }
        let replaced = lost > 0 ? ["\(lost) of \(picked.count) frames could not be decoded: their nearest neighbours are used"] : []
        return Watched(
            frames: picked, keyFrames: keyFrames.filter { $0 < built.count },
            stagesSeconds: seconds.merging(["read": read]) { $1 }, warnings: info.warnings + replaced)
    }

    /// Takes in resized frames and begins a conversation. Returns the key frames' indices of 16.
    public func watch(_ pixels: Pixels) throws -> [Int] { try open().watch(pixels) }

    /// Puts the video into the cache while the question is still being typed; the seconds that it took. Ends with `CancellationError`, and
    /// the video not in the cache, where the calling task is cancelled.
    @discardableResult
    public func prefillVideo() throws -> Double {
        let started = monotonicSeconds()
        try Task.checkCancellation()
        try open().prefillVideo()
        return monotonicSeconds() - started
    }

    /// Asks; the answer comes as text. A stream that is not read on, or whose task is cancelled, stops the answer: what was given belongs
    /// to the conversation.
    public nonisolated func ask(
        _ question: String, options: AnswerOptions = AnswerOptions()
    ) -> AsyncThrowingStream<AnswerEvent, any Error> {
        AsyncThrowingStream { continuation in
            let task = asked.begin {
                do {
                    try await self.answer(question, options) { continuation.yield($0) }
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
            continuation.onTermination = { _ in task.cancel() }
        }
    }

    /// Ends the answers that are being given or wait; each ends with `done` and `stopped`.
    public nonisolated func stop() { asked.cancelAll() }

    /// Begins another conversation about the same video.
    public func startOver() throws { try open().startOver() }

    /// Frees all graphs, for the background: the conversation stays, and the next question feeds it in again. With `decoder` false only
    /// those that watch, where memory is short: the cache stays too. A backend that was not used yet may hold graphs as well.
    public func releaseMemory(decoder: Bool = true) {
        guard let session = try? open() else { return }  // what cannot be made holds nothing
        if decoder { session.releaseMemory() } else { session.backend.release(GraphName.vision) }
    }

    /// Frees everything, the conversation too; the next call begins anew.
    public func close() {
        releaseMemory()
        session = nil
    }

    /// Times the bundle as `python -m runtime_py.bench` does. The conversation stays: the next question feeds it in again.
    public func bench(
        _ options: BenchOptions, meter: any DeviceMeter, progress: @Sendable (String) -> Void = { _ in }
    ) throws -> BenchReport {
        try open().lendingBackend { try Bench(backend: $0, meter: meter).run(options, progress: progress) }
    }

    /// Runs the bundle's golden vectors through the tokenizer and the whole pipeline, and compares. The conversation stays here too.
    public func selfTest(progress: @Sendable (String) -> Void = { _ in }) throws -> SelfTestReport {
        let golden = try Golden.read(bundle)
        return try open().lendingBackend { try runSelfTest($0, golden, tokenizer, progress: progress) }
    }

    private func open() throws -> Session {
        if let session { return session }
        let session = Session(backend: try makeBackend(bundle), tokenizer: tokenizer)
        self.session = session
        return session
    }

    private func answer(_ question: String, _ options: AnswerOptions, give: (AnswerEvent) -> Void) throws {
        let session = try open()
        guard let tokenizer else { throw VideoGPTError.noTokenizer }
        let sampler = try Sampler(temperature: options.temperature, topP: options.topP, seed: options.seed)
        var (text, tokens, steps, first) = (TextStream(tokenizer), 0, 0.0, Double?.none)
        var asked = monotonicSeconds()
        var ending = AnswerReport.Ending.complete
        do {
            try Task.checkCancellation()
            let forgotten = session.forgotten
            let ids = try session.ask(question, sampler: sampler, maxNewTokens: options.maxNewTokens)
            if session.forgotten > forgotten { give(.forgot(turns: session.forgotten)) }
            while let id = try ids.next() {
                let now = monotonicSeconds()
                if first == nil { first = now - asked } else { steps += now - asked }
                asked = now
                tokens += 1
                let piece = try text.step(id)
                if !piece.isEmpty { give(.text(piece)) }
                try Task.checkCancellation()
            }
            if tokens == options.maxNewTokens { ending = .limit }
            if session.full { ending = .contextFull }
        } catch is CancellationError {
            ending = .stopped
        }
        let rest = try text.flush()
        if !rest.isEmpty { give(.text(rest)) }
        give(
            .done(
                AnswerReport(
                    ending: ending, tokens: tokens, firstTokenSeconds: first, tokensPerSecond: steps > 0 ? Double(tokens - 1) / steps : nil,
                    position: session.position, maxContext: session.backend.maxContext)))
    }
}

/// The tasks of answers that have not ended.
private final class AskedTasks: Sendable {
    private let running = Mutex<[Int: Task<Void, Never>]>([:])
    private let numbers = Atomic(0)

    func begin(_ work: @escaping @Sendable () async -> Void) -> Task<Void, Never> {
        let number = numbers.add(1, ordering: .relaxed).newValue
        return running.withLock { tasks in
            let task = Task {
                await work()
                self.ended(number)
            }
            tasks[number] = task
            return task
        }
    }

    func cancelAll() { running.withLock { $0.values.forEach { $0.cancel() } } }

    private func ended(_ number: Int) { _ = running.withLock { $0.removeValue(forKey: number) } }
}
