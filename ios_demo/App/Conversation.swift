import Foundation
import MobileVideoGPTCore
import Observation

/// One bundle, one video, its questions and answers, as the screens show them. All computing is `VideoChat`'s, on its own queue.
@MainActor @Observable
final class Conversation: Identifiable {
    struct Turn: Identifiable {
        let id = UUID()
        let question: String
        var answer = ""
        var report: AnswerReport?
    }

    enum Phase: Equatable {
        case noVideo, watching, ready, answering
    }

    let chat: VideoChat
    private(set) var phase = Phase.noVideo
    private(set) var turns: [Turn] = []
    private(set) var frames: [FramePicture] = []
    private(set) var keyFrames: Set<Int> = []
    private(set) var watched: Watched?
    /// Turns that did not fit the context any more.
    private(set) var forgotten = 0
    /// What took the last first token: the stages of watching, then the question's prefill.
    private(set) var firstTokenStages: [(name: String, seconds: Double)] = []
    var failure: Failure?

    private let reader = VideoReader()
    private var work: Task<Void, Never>?

    init(_ chat: VideoChat) { self.chat = chat }

    var manifest: Manifest { chat.bundle.manifest }
    var canAsk: Bool { phase == .ready }
    var isBusy: Bool { phase == .watching || phase == .answering }

    /// Takes in a video in place of the one before and begins a conversation about it.
    func watch(_ video: URL) {
        chat.stop()
        work?.cancel()
        (phase, turns, frames, keyFrames, watched, forgotten) = (.watching, [], [], [], nil, 0)
        firstTokenStages = []
        work = Task {
            let (pictures, sender) = AsyncStream<FramePicture>.makeStream()
            let showing = Task {
                for await picture in pictures where !Task.isCancelled { frames.append(picture) }
            }
            defer {
                sender.finish()
                showing.cancel()
            }
            do {
                let watched = try await chat.watch(video, reader: reader) { frame in
                    if let picture = FramePicture(frame) { sender.yield(picture) }
                }
                sender.finish()
                await showing.value
                try Task.checkCancellation()
                (self.watched, keyFrames, phase) = (watched, Set(watched.keyFrames), .ready)
                try await chat.prefillVideo()  // while the question is still being typed
            } catch {
                if !Task.isCancelled { fail(error, watched == nil ? .noVideo : .ready) }
            }
        }
    }

    /// Asks; the answer grows in the last turn.
    func ask(_ question: String, _ options: AnswerOptions) {
        guard canAsk else { return }
        turns.append(Turn(question: question))
        phase = .answering
        let first = turns.count == 1
        work = Task {
            do {
                for try await event in chat.ask(question, options: options) {
                    guard !Task.isCancelled, let last = turns.indices.last else { return }  // another video was chosen
                    switch event {
                    case .forgot(let count): forgotten = count
                    case .text(let text): turns[last].answer += text
                    case .done(let report):
                        turns[last].report = report
                        noteFirstToken(report, withWatching: first)
                    }
                }
                if !Task.isCancelled { phase = .ready }
            } catch {
                guard !Task.isCancelled else { return }
                turns.removeLast()  // it does not belong to the conversation
                fail(error, .ready)
            }
        }
    }

    /// Ends the answer; what was given belongs to the conversation. Ends watching too.
    func stop() {
        chat.stop()
        guard phase == .watching else { return }
        work?.cancel()
        (phase, frames) = (.noVideo, [])
    }

    /// Begins another conversation about the same video.
    func startOver() {
        guard phase == .ready else { return }
        (turns, forgotten) = ([], 0)
        work = Task {
            do { try await chat.startOver() } catch { fail(error, phase) }
        }
    }

    func freeMemory() {
        stop()
        Task { await chat.releaseMemory() }
    }

    func close() async {
        chat.stop()
        work?.cancel()
        await chat.close()
    }

    private func fail(_ error: any Error, _ phase: Phase) {
        self.phase = phase
        failure = Failure(error)
    }

    private func noteFirstToken(_ report: AnswerReport, withWatching: Bool) {
        guard let prefill = report.firstTokenSeconds else { return }
        let order = ["read", "loading"] + GraphName.vision.map(\.rawValue)
        let stages = withWatching ? order.compactMap { name in watched?.stagesSeconds[name].map { (name: name, seconds: $0) } } : []
        firstTokenStages = stages + [(name: "prefill", seconds: prefill)]
    }
}
