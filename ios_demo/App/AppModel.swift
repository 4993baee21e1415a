import Foundation
import MobileVideoGPTCore
import Observation

/// What the whole app shows: the bundles on the device, the one that is being opened, and the conversation with it.
@MainActor @Observable
final class AppModel {
    private(set) var bundles: [BundleSummary] = []
    /// Pins of downloads that are not complete.
    private(set) var unfinished: [String] = []
    let download = DownloadModel()
    private(set) var conversation: Conversation?
    private(set) var opening: OpeningStep?
    /// What the failure screen shows; nil hides it.
    var failure: Failure?
    var units: ComputeUnits = .all

    private var openingTask: Task<Void, Never>?
    private var closingTask: Task<Void, Never>?

    /// Reads the list of bundles again, and removes the compiled models of those that are gone.
    func refresh() async {
        do {
            let library = try BundleLibrary.standard()
            (bundles, unfinished) = (await library.list(), library.unfinished())
            try await library.tidy()
        } catch {
            failure = Failure(error)
        }
    }

    /// Opens a bundle in place of the one that is open.
    func open(_ bundle: BundleSummary) {
        let before = openingTask
        before?.cancel()
        opening = .checking(0)
        let (units, folder) = (units, bundle.folder)
        openingTask = Task {
            await before?.value  // two bundles at once would need the memory of both
            if Task.isCancelled { return }
            opening = .checking(0)  // the one before has taken it away
            Awake.begin()
            await closeConversation()
            let (steps, sender) = AsyncStream<OpeningStep>.makeStream(bufferingPolicy: .bufferingNewest(1))
            let watching = Task {
                for await step in steps where !Task.isCancelled { opening = step }
            }
            defer {
                sender.finish()
                watching.cancel()
                opening = nil
                Awake.end()
            }
            do {
                let chat = try await Opening.open(folder, units: units) { sender.yield($0) }
                if Task.isCancelled { await chat.close() } else { conversation = Conversation(chat) }
            } catch is CancellationError {
            } catch {
                failure = Failure(error)
            }
        }
    }

    func cancelOpening() { openingTask?.cancel() }

    /// Ends the conversation and frees the bundle.
    func close() { Task { await closeConversation() } }

    func delete(_ bundle: BundleSummary) async {
        do {
            try await BundleLibrary.standard().delete(bundle)
        } catch {
            failure = Failure(error)
        }
        await refresh()
    }

    /// Gets a bundle from a web address into the list.
    func startDownload(_ address: String, _ pin: String) { download.start(address, pin) { await self.refresh() } }

    /// Removes what has arrived of a bundle.
    func removeUnfinished(_ pin: String) async {
        guard !download.isRunning else { return }  // it may be this one
        do {
            try await BundleLibrary.standard().downloads.remove(pin: pin)
        } catch {
            failure = Failure(error)
        }
        await refresh()
    }

    /// iOS is short of memory: an app that holds much is ended first.
    func memoryWarning() { conversation?.memoryWarning() }

    func enteredBackground() { conversation?.enteredBackground() }

    func becameActive() { conversation?.becameActive() }

    /// Returns when its memory is free, whoever closed it.
    private func closeConversation() async {
        if let open = conversation {
            conversation = nil
            closingTask = Task { await open.close() }
        }
        await closingTask?.value
    }
}

/// What went wrong, for a screen of its own.
struct Failure: Identifiable {
    let id = UUID()
    let title: String
    let symbol: String
    /// One line: what happened, and what to do.
    let message: String

    init(_ error: any Error) {
        message = (error as? VideoGPTError)?.message ?? oneLine(error)
        (title, symbol) = switch (error as? VideoGPTError)?.family {
        case .bundle: ("This bundle cannot be used", "shippingbox")
        case .memory: ("Not enough memory", "memorychip")
        case .computing: ("The model cannot be run", "cpu")
        case .video: ("This video cannot be used", "film")
        case .question: ("This question cannot be asked", "questionmark.bubble")
        case .download: ("The download stopped", "arrow.down.circle")
        case .storage: ("Nothing can be stored", "externaldrive.badge.xmark")
        case nil: ("Something went wrong", "exclamationmark.triangle")
        }
    }
}
