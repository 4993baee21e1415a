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
    /// Why something stopped without being asked to, for the user.
    private(set) var notice: String?
    /// What is being typed.
    var question = ""
    var failure: Failure?

    private let reader = VideoReader()
    private var work: Task<Void, Never>?
    private var prefill: Task<Double?, Never>?  // ahead of the first question: the seconds that it took
    private var video: URL?  // the one that is watched, and the one to watch when the app is back
    private var watchesAgain = false

    init(_ chat: VideoChat) { self.chat = chat }

    var manifest: Manifest { chat.bundle.manifest }
    var canAsk: Bool { phase == .ready }
    var isBusy: Bool { phase == .watching || phase == .answering }

    /// Takes in a video in place of the one before and begins a conversation about it.
    func watch(_ video: URL) {
        cancel()
        (phase, turns, frames, keyFrames, watched, forgotten) = (.watching, [], [], [], nil, 0)
        (firstTokenStages, notice, self.video, watchesAgain) = ([], nil, video, false)
        work = Task {
            Awake.begin()
            let (pictures, sender) = AsyncStream<FramePicture>.makeStream()
            let showing = Task {
                for await picture in pictures where !Task.isCancelled { frames.append(picture) }
            }
            defer {
                sender.finish()
                showing.cancel()
                Awake.end()
            }
            do {
                let watched = try await chat.watch(video, reader: reader) { frame in
                    if let picture = FramePicture(frame) { sender.yield(picture) }
                }
                sender.finish()
                await showing.value
                try Task.checkCancellation()
                (self.watched, keyFrames, phase) = (watched, Set(watched.keyFrames), .ready)
                prefillAhead()
            } catch {
                if !Task.isCancelled { fail(error, .noVideo) }
            }
        }
    }

    /// Puts the video into the cache while the question is still being typed. A question waits for it, and fails by itself where it must.
    private func prefillAhead() {
        prefill = Task {
            Awake.begin()
            defer { Awake.end() }
            do {
                return try await chat.prefillVideo()
            } catch {
                if !Task.isCancelled, phase == .ready { failure = Failure(error) }
                return nil
            }
        }
    }

    /// Asks what was typed; the answer grows in the last turn. Where asking fails, the text is back in its field.
    func ask(_ options: AnswerOptions) {
        let asked = question.trimmingCharacters(in: .whitespacesAndNewlines)
        guard canAsk, !asked.isEmpty else { return }
        turns.append(Turn(question: asked))
        (phase, question, notice) = (.answering, "", nil)
        let (first, prefill) = (turns.count == 1, prefill)
        work = Task {
            Awake.begin()
            defer { Awake.end() }
            do {
                for try await event in chat.ask(question, options: options) {
                    guard !Task.isCancelled, let last = turns.indices.last else { return }  // another video was chosen
                    switch event {
                    case .forgot(let count): forgotten = count
                    case .text(let text): turns[last].answer += text
                    case .done(let report):
                        turns[last].report = report
                        let ahead = first ? await prefill?.value ?? nil : nil
                        if !Task.isCancelled { noteFirstToken(report, withWatching: first, ahead: ahead) }
                    }
                }
                if !Task.isCancelled { phase = .ready }
            } catch {
                guard !Task.isCancelled else { return }
                if turns.last?.answer.isEmpty == true {
                    turns.removeLast()  // a question without a first token does not belong to the conversation
                    if question.isEmpty { question = asked }
                }
                fail(error, .ready)
            }
        }
    }

    /// Ends the answer; what was given belongs to the conversation. Ends watching too.
    func stop() {
        chat.stop()
        prefill?.cancel()
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

    /// Frees what watches, which a conversation does without.
    func memoryWarning() { Task { await chat.releaseMemory(decoder: false) } }

    /// iOS ends apps in the background that hold much, and gives them no processor: everything stops and is freed, the conversation stays.
    func enteredBackground() {
        if phase == .watching {
            watchesAgain = true
            notice = "Watching stopped because the app left the screen; it begins again."
        } else if phase == .answering {
            notice = "The answer stopped because the app left the screen."
        }
        stop()
        Task { await chat.releaseMemory() }
    }

    /// Watches again what the background interrupted.
    func becameActive() {
        guard watchesAgain, let video else { return }
        let why = notice
        watch(video)
        notice = why
    }

    func close() async {
        cancel()
        await chat.close()
    }

    private func cancel() {
        chat.stop()
        work?.cancel()
        prefill?.cancel()
        prefill = nil
    }

    private func fail(_ error: any Error, _ phase: Phase) {
        self.phase = phase
        failure = Failure(error)
    }

    private func noteFirstToken(_ report: AnswerReport, withWatching: Bool, ahead: Double?) {
        guard let prefill = report.firstTokenSeconds else { return }
        let order = ["read", "loading"] + GraphName.vision.map(\.rawValue)
        let stages = withWatching ? order.compactMap { name in watched?.stagesSeconds[name].map { (name: name, seconds: $0) } } : []
        firstTokenStages = stages + (ahead.map { [(name: "prefill_ahead", seconds: $0)] } ?? []) + [(name: "prefill", seconds: prefill)]
    }
}
