import Foundation

/// An answer while it is given: each call of `next` computes one id. Stopping means to call it no more.
public final class Answer {
    private let session: Session
    private let sampler: any TokenSampler
    private let maxNewTokens: Int
    private let opening: [Int]?
    private var embeds: FloatTensor
    private var position: Int
    private var turn: Turn
    private var earlier: [Turn] = []
    private var given = 0
    private var ended = false

    init(
        _ session: Session, _ embeds: FloatTensor, _ position: Int, _ turn: Turn, _ sampler: any TokenSampler, _ maxNewTokens: Int,
        _ opening: [Int]?
    ) {
        self.session = session
        self.embeds = embeds
        self.position = position
        self.turn = turn
        self.sampler = sampler
        self.maxNewTokens = maxNewTokens
        self.opening = opening
    }

    /// The next id, or nil where the answer has ended: at a stop id, which is not part of it, at the limit, in a full context, or after
    /// an error. Throws `VideoGPTError`, and `CancellationError` where the task was cancelled while the prompt was read.
    public func next() throws -> Int? {
        guard !ended, given < maxNewTokens, given == 0 || !session.full else { return nil }
        ended = true  // unless all goes well
        if let last = turn.answer.last {
            embeds = try embed(session.backend, [last])
        } else {
            earlier = session.held.turns
        }
        let logits = try session.backend.decode(embeds, at: position)
        session.took(opening: opening)
        position += embeds.rows
        let token = try sampler(logits)
        if session.stopIDs.contains(token) {
            session.held = Held(position: position, turns: earlier + [turn])
            return nil
        }
        turn.answer.append(token)
        session.held = Held(position: position, unfed: [token], turns: earlier + [turn])
        given += 1
        ended = false
        return token
    }
}
