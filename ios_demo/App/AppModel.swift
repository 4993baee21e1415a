import Foundation
import MobileVideoGPTCore
import Observation

/// What the whole app shows: the bundles on the device, the one that is being opened, and the conversation with it.
@MainActor @Observable
final class AppModel {
    private(set) var bundles: [BundleSummary] = []
    private(set) var conversation: Conversation?
    private(set) var opening: OpeningStep?
    /// What the failure screen shows; nil hides it.
    var failure: Failure?
    var units: ComputeUnits = .all

    private var openingTask: Task<Void, Never>?

    /// Reads the list of bundles again.
    func refresh() async {
        do {
            bundles = try await BundleLibrary.standard().list()
        } catch {
            failure = Failure(error)
        }
    }

    /// Opens a bundle in place of the one that is open.
    func open(_ bundle: BundleSummary) {
        openingTask?.cancel()
        opening = .checking(0)
        let (units, folder) = (units, bundle.folder)
        openingTask = Task {
            await closeConversation()
            let (steps, sender) = AsyncStream<OpeningStep>.makeStream(bufferingPolicy: .bufferingNewest(1))
            let watching = Task {
                for await step in steps where !Task.isCancelled { opening = step }
            }
            defer {
                sender.finish()
                watching.cancel()
                opening = nil
            }
            do {
                let chat = try await Opening.open(folder, units: units) { sender.yield($0) }
                if !Task.isCancelled { conversation = Conversation(chat) }
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

    /// In the background, and where iOS is short of memory: an app that holds much is ended first. The conversation stays.
    func freeMemory() { conversation?.freeMemory() }

    private func closeConversation() async {
        guard let open = conversation else { return }
        conversation = nil
        await open.close()
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
        case .video: ("This video cannot be used", "film")
        case .question: ("This question cannot be asked", "questionmark.bubble")
        case .download: ("The download stopped", "arrow.down.circle")
        case nil: ("Something went wrong", "exclamationmark.triangle")
        }
    }
}
