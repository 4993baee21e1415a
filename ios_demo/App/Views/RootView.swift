import SwiftUI

/// The list of bundles, or the conversation with the one that is open.
struct RootView: View {
    @Environment(AppModel.self) private var model

    var body: some View {
        @Bindable var model = model
        NavigationStack {
            if let conversation = model.conversation {
                ConversationView(conversation: conversation)
            } else if let step = model.opening {
                OpeningView(step: step)
            } else {
                BundlesView()
            }
        }
        .sheet(item: $model.failure) { FailureView(failure: $0) }
    }
}

/// A bundle on its way into memory.
private struct OpeningView: View {
    @Environment(AppModel.self) private var model
    let step: OpeningStep

    var body: some View {
        VStack(spacing: 16) {
            if case .checking(let share) = step {
                ProgressView(value: share)
            } else {
                ProgressView()
            }
            Text(step.line).font(.callout).multilineTextAlignment(.center)
            Button("Cancel") { model.cancelOpening() }
        }
        .padding(32)
        .navigationTitle("Opening")
    }
}

/// What went wrong, and what to do.
struct FailureView: View {
    @Environment(\.dismiss) private var dismiss
    let failure: Failure

    var body: some View {
        ContentUnavailableView {
            Label(failure.title, systemImage: failure.symbol)
        } description: {
            Text(failure.message).textSelection(.enabled)
        } actions: {
            Button("Close") { dismiss() }.buttonStyle(.borderedProminent)
        }
        .presentationDetents([.medium])
    }
}
