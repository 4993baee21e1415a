import Foundation

/// What watching a clip gives: the tokens that replace the placeholders, [V, D], the frames' scores, and the key frames that were chosen by
/// them, [2, 8] and [2, 4], the latter counted within their chunk.
struct Seen {
    let tokens: FloatTensor
    let frameScores: [[Float]]
    let selected: [[Int]]
}

/// The tokens that replace the placeholders: image tokens in frame order, then video tokens. `forced`: key frames that go on in place of
/// the chosen ones. Between graphs it can be cancelled.
func visualTokens(_ backend: any GraphBackend, _ pixels: Pixels, forced: [[Int]]? = nil) throws -> Seen {
    let preprocessing = backend.manifest.preprocessing
    let (chunks, frames) = (preprocessing.chunks, preprocessing.chunkFrames)
    func run(_ graph: GraphName, _ input: FloatTensor) throws -> FloatTensor {
        try Task.checkCancellation()
        return try backend.run(graph, input)
    }
    let features = try run(.imageEncoder, pixels.clip)  // [16, P, C]
    let scores = try run(.frameScorer, features.reshaped([chunks, frames] + features.shape.dropFirst()))  // [2, 8]
    guard scores.shape == [chunks, frames] else {
        throw VideoGPTError.graphFailed(graph: GraphName.frameScorer.rawValue, reason: "its scores have the shape \(scores.shape)")
    }
    let rows = (0..<chunks).map { scores.slice($0..<$0 + 1).data }
    let selected = selectKeyFrames(
        rows, topk: preprocessing.topk, count: preprocessing.keyFramesPerChunk, tie: preprocessing.tieTolerance)
    let keyFrames = FloatTensor.concatenated(
        keyFrameIndices(forced ?? selected, preprocessing).map { pixels.video.slice($0..<$0 + 1) })  // [8, 3, 224, 224]
    let encoded = try run(.videoEncoder, keyFrames.reshaped([1] + keyFrames.shape))  // [8, P, C]
    let image = try run(.imageProjector, features)
    let video = try run(.videoProjector, encoded)
    return Seen(tokens: .concatenated([image, video]), frameScores: rows, selected: selected)
}

/// Key frames within chunks as indices of all frames, ascending.
func keyFrameIndices(_ selected: [[Int]], _ preprocessing: Preprocessing) -> [Int] {
    selected.enumerated().flatMap { chunk, row in row.map { chunk * preprocessing.chunkFrames + $0 } }
}

/// Embeddings of a prompt whose run of placeholders becomes the visual tokens: [N, D].
func promptEmbeds(_ backend: any GraphBackend, _ ids: [Int], _ visual: FloatTensor) throws -> FloatTensor {
    let (before, after) = try backend.manifest.prompt.splitAtVisualTokens(ids)
    var parts = before.isEmpty ? [] : [try embed(backend, before)]
    parts.append(visual)
    if !after.isEmpty { parts.append(try embed(backend, after)) }  // a graph takes no empty list of ids
    return FloatTensor.concatenated(parts)
}

/// Embeddings [N, D] of text ids. Throws `promptInvalid` for an id outside the vocabulary.
func embed(_ backend: any GraphBackend, _ ids: [Int]) throws -> FloatTensor {
    let vocabulary = backend.manifest.model.vocabulary
    if let outside = ids.first(where: { !(0..<vocabulary).contains($0) }) {
        throw VideoGPTError.promptInvalid(
            "id \(outside) is outside the vocabulary of \(vocabulary): tokenize with the checkpoint's own tokenizer")
    }
    return try backend.embed(ids)
}

/// Whether `new` tokens behind `position` leave room for so many tokens of answer.
func fits(_ backend: any GraphBackend, position: Int, new: Int, room: Int = 1) -> Bool { position + new + room <= backend.maxContext }

/// Throws `promptTooLong` where `fits` does not hold.
func checkFits(_ backend: any GraphBackend, position: Int, new: Int) throws {
    guard fits(backend, position: position, new: new) else {
        throw VideoGPTError.promptTooLong(
            tokens: new, after: position, context: backend.maxContext, visual: backend.manifest.visualTokens)
    }
}

/// A backend's graphs, with a clock: adds the seconds of each graph under its name, and what it takes to load those that are not loaded
/// yet under `loading`.
final class TimedBackend: GraphBackend {
    private(set) var seconds: [String: Double] = [:]
    private let backend: any GraphBackend
    private let clock: () -> Double

    var manifest: Manifest { backend.manifest }
    var maxContext: Int { backend.maxContext }
    var name: String { backend.name }
    var versions: [String: String] { backend.versions }

    init(_ backend: any GraphBackend, clock: @escaping () -> Double) {
        self.backend = backend
        self.clock = clock
    }

    func run(_ graph: GraphName, _ input: FloatTensor) throws -> FloatTensor {
        try load([graph])
        return try timed(graph.rawValue) { try backend.run(graph, input) }
    }

    func embed(_ ids: [Int]) throws -> FloatTensor {
        try load([.tokenEmbedding])
        return try timed(GraphName.tokenEmbedding.rawValue) { try backend.embed(ids) }
    }

    func decode(_ embeds: FloatTensor, at position: Int) throws -> [Float] {
        try load([.decoder])
        return try timed(GraphName.decoder.rawValue) { try backend.decode(embeds, at: position) }
    }

    func load(_ graphs: [GraphName]) throws { try timed("loading") { try backend.load(graphs) } }

    func release(_ graphs: [GraphName]) { backend.release(graphs) }

    private func timed<Result>(_ name: String, _ work: () throws -> Result) rethrows -> Result {
        let started = clock()
        let result = try work()
        seconds[name, default: 0] += clock() - started
        return result
    }
}
