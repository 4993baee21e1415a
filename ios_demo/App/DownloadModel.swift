import Foundation
import MobileVideoGPTCore
import Observation

/// The one download of the app: it goes on where its screen is closed, and a second one does not begin beside it.
@MainActor @Observable
final class DownloadModel {
    struct Progress {
        let share: Double
        let line: String
    }

    private(set) var progress: Progress?
    private(set) var isRunning = false
    private(set) var isDone = false
    var failure: Failure?
    private var work: Task<Void, Never>?

    /// `ended` is called after the download, whatever came of it.
    func start(_ address: String, _ pin: String, ended: @escaping @MainActor () async -> Void) {
        guard !isRunning else { return }
        (isRunning, isDone, progress) = (true, false, nil)
        work = Task {
            Awake.begin()
            let (steps, sender) = AsyncStream<DownloadProgress>.makeStream(bufferingPolicy: .bufferingNewest(1))
            let showing = Task { for await step in steps { show(step) } }
            var arrived = false
            do {
                let library = try BundleLibrary.standard()
                _ = try await library.downloads.download(from: address, pin: pin, availableBytes: library.freeBytes) { sender.yield($0) }
                arrived = true
            } catch is CancellationError {
            } catch {
                failure = Failure(error)
            }
            sender.finish()
            showing.cancel()
            Awake.end()
            (isRunning, isDone) = (false, arrived)
            await ended()
        }
    }

    func stop() { work?.cancel() }

    private func show(_ step: DownloadProgress) {
        let total = step.total.map { "of \(byteCount($0)), " } ?? ""
        progress = Progress(
            share: step.total.map { min(1, Double(step.done) / Double(max(1, $0))) } ?? 0,
            line: "\(byteCount(step.done)) \(total)\(step.file)")
    }
}
