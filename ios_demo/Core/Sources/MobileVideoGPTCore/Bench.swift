import Foundation

/// What a benchmark runs.
public struct BenchOptions: Sendable, Equatable {
    /// Prefill so many synthetic embeddings, no video; nil: a video and a prompt.
    public var context: Int?
    /// Timed greedy steps.
    public var newTokens: Int
    /// Timed runs after the warm-up.
    public var runs: Int
    /// As the report names the bundle.
    public var source: String

    public init(context: Int? = nil, newTokens: Int = 32, runs: Int = 3, source: String) {
        self.context = context
        self.newTokens = newTokens
        self.runs = runs
        self.source = source
    }
}

/// What an app knows of its device and process.
public protocol DeviceMeter: Sendable {
    /// As Python's bench names the device that the host code runs on: `cpu`. The phone's model is one of `versions`.
    var device: String { get }
    var threads: Int { get }
    /// Of the system and the app, beside the backend's.
    var versions: [String: String] { get }
    /// The most memory that the process has had, in bytes.
    func peakBytes() -> Int
    /// Seconds since the process began.
    func processAgeSeconds() -> Double
    /// `nominal`, `fair`, `serious`, `critical` or `unknown`.
    func thermalState() -> String
}

/// One timed pass: seconds of each stage up to the prefill, of choosing the first token, of each step after it, and to the first token of
/// another question about the same video; and how old the process was when the first token was there.
struct BenchRun {
    var contextTokens: Int
    var stagesSeconds: [String: Double]
    var samplingSeconds: Double
    var stepsSeconds: [Double]
    var againSeconds: Double
    var firstTokenAtSeconds: Double

    var ttftSeconds: Double { stagesSeconds.values.reduce(0, +) + samplingSeconds }
    var answerSeconds: Double { ttftSeconds + stepsSeconds.reduce(0, +) }
}

/// How fast each stage runs, how soon an answer begins and how fast it goes on: `python -m runtime_py.bench` on a phone. Synthetic input:
/// speed does not depend on what a video shows.
struct Bench {
    static let textTokens = 30  // around the visual tokens, half before and half behind: a question of one sentence in its template
    private static let embeddingScale: Float = 0.02  // standard deviation of synthetic embeddings, as Qwen2's own have

    let backend: any GraphBackend
    let meter: any DeviceMeter
    var clock: () -> Double = monotonicSeconds

    /// Warms up, times `runs` passes, and summarizes them. Throws `optionOutOfRange`, and `CancellationError` between passes.
    func run(_ options: BenchOptions, progress: (String) -> Void = { _ in }) throws -> BenchReport {
        try check(options)
        let before = meter.thermalState()
        var generator = SplitMix64(state: 0)
        let input = options.context.map { filling($0, &generator) }
        let (pixels, ids) = input == nil ? videoPrompt(&generator) : (nil, [])
        var runs: [BenchRun] = []
        for number in 0...options.runs {
            try Task.checkCancellation()
            let run = try once(options.newTokens) { timed in
                if let input { return input }
                guard let pixels else { return FloatTensor(shape: [0], data: []) }
                let visual = try visualTokens(timed, pixels).tokens
                timed.release(GraphName.vision)
                return try promptEmbeds(timed, ids, visual)
            }
            let name = number == 0 ? "warm-up" : "run \(number) of \(options.runs)"
            let rate = 1 / median(run.stepsSeconds)
            progress(String(format: "%@: first token after %.3f s, then %.1f tokens/s", name as NSString, run.ttftSeconds, rate))
            runs.append(run)
        }
        return BenchReport(
            summary: BenchSummary(Array(runs.dropFirst())), backend: backend.name, device: meter.device, source: options.source,
            coldTTFTSeconds: runs[0].firstTokenAtSeconds, newTokens: options.newTokens, runs: options.runs, threads: meter.threads,
            peakBytes: meter.peakBytes(), bundleBytes: backend.manifest.bundleBytes,
            versions: backend.versions.merging(meter.versions) { $1 }, thermalStateBefore: before, thermalStateAfter: meter.thermalState())
    }

    /// Prefills the prompt and takes greedy steps behind it; stop ids are ignored. As in a session the graphs that watch are freed when
    /// they have; they are loaded again for the next video, and that belongs to its first token.
    ///
    /// Another question then stands in the first one's place, behind the video. A step is what a token costs: its embedding, the decoder,
    /// and the choice of the next.
    func once(_ newTokens: Int, embeds prompt: (TimedBackend) throws -> FloatTensor) throws -> BenchRun {
        let timed = TimedBackend(backend, clock: clock)
        let sampler = Sampler()
        let embeds = try prompt(timed)  // [N, D]
        let context = embeds.rows
        let logits = try timed.decode(embeds, at: 0)
        var stages = timed.seconds
        stages["prefill"] = stages.removeValue(forKey: GraphName.decoder.rawValue)
        var started = clock()
        var token = try sampler(logits)
        let sampling = clock() - started
        let firstTokenAt = meter.processAgeSeconds()
        let steps = try (context..<context + newTokens).map { position in
            started = clock()
            token = try sampler(backend.decode(embed(backend, [token]), at: position))
            return clock() - started
        }
        let question = Array(repeating: token, count: min(Self.textTokens / 2, context))
        started = clock()
        _ = try sampler(backend.decode(embed(backend, question), at: context - question.count))
        return BenchRun(
            contextTokens: context, stagesSeconds: stages, samplingSeconds: sampling, stepsSeconds: steps, againSeconds: clock() - started,
            firstTokenAtSeconds: firstTokenAt)
    }

    private func check(_ options: BenchOptions) throws {
        guard options.newTokens > 0, options.runs > 0, options.context ?? 1 > 0 else {
            throw VideoGPTError.optionOutOfRange("a benchmark of no tokens or no runs: give at least 1")
        }
        let tokens = options.context ?? Self.textTokens + backend.manifest.visualTokens
        guard tokens <= backend.maxContext, options.newTokens <= backend.maxContext - tokens else {
            throw VideoGPTError.optionOutOfRange(
                "\(tokens) tokens and \(options.newTokens) new ones do not fit the context of \(backend.maxContext) tokens: give fewer")
        }
    }

    /// A clip of noise in 0..255, and a prompt around it.
    private func videoPrompt(_ generator: inout SplitMix64) -> (Pixels, [Int]) {
        let preprocessing = backend.manifest.preprocessing
        let shape = [preprocessing.frames, 3, preprocessing.imageSize, preprocessing.imageSize]
        func noise() -> FloatTensor {
            FloatTensor(shape: shape, data: (0..<shape.reduce(1, *)).map { _ in Float.random(in: 0..<255, using: &generator) })
        }
        let pixels = Pixels(clip: noise(), video: noise())
        let text = (0..<Self.textTokens).map { _ in Int.random(in: 0..<backend.manifest.model.vocabulary, using: &generator) }
        let half = Self.textTokens / 2
        return (pixels, Array(text[..<half]) + [backend.manifest.prompt.placeholderID] + Array(text[half...]))
    }

    /// Synthetic embeddings [N, D] in place of a video and a prompt, normally distributed (Box and Muller).
    private func filling(_ tokens: Int, _ generator: inout SplitMix64) -> FloatTensor {
        let width = backend.manifest.model.width
        let values = (0..<tokens * width).map { _ in
            let radius = (-2 * log(1 - Double.random(in: 0..<1, using: &generator))).squareRoot()
            return Float(radius * cos(2 * Double.pi * Double.random(in: 0..<1, using: &generator))) * Self.embeddingScale
        }
        return FloatTensor(shape: [tokens, width], data: values)
    }
}

/// Medians: over runs for what happens once, over all steps of all runs for decoding.
struct BenchSummary: Sendable, Equatable {
    let stagesSeconds: [String: Double]
    let samplingSeconds: Double
    let againSeconds: Double
    let answerSeconds: Double
    let contextTokens: Int
    let decodeTokensPerSecond: Double

    init(_ runs: [BenchRun]) {
        let stages = runs.first?.stagesSeconds.keys.map { $0 } ?? []
        stagesSeconds = Dictionary(
            uniqueKeysWithValues: stages.map { stage in (stage, median(runs.compactMap { $0.stagesSeconds[stage] })) })
        samplingSeconds = median(runs.map(\.samplingSeconds))
        againSeconds = median(runs.map(\.againSeconds))
        answerSeconds = median(runs.map(\.answerSeconds))
        contextTokens = runs.first?.contextTokens ?? 0
        decodeTokensPerSecond = median(runs.flatMap { $0.stepsSeconds.map { 1 / $0 } })
    }
}

func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    guard !sorted.isEmpty else { return 0 }
    return (sorted[(sorted.count - 1) / 2] + sorted[sorted.count / 2]) / 2
}
