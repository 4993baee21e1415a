import MobileVideoGPTCore
import SwiftUI

/// Runs the bundle's golden frames and golden texts on this device and says how far they are from the model's.
struct SelfTestView: View {
    @Environment(\.dismiss) private var dismiss
    @Environment(\.scenePhase) private var scenePhase
    @State private var report: SelfTestReport?
    @State private var step: String?
    @State private var failure: Failure?
    @State private var work: Task<Void, Never>?
    let conversation: Conversation

    var body: some View {
        NavigationStack {
            List {
                Section {
                    if work == nil {
                        Button("Run") { start() }
                    } else {
                        HStack {
                            ProgressView()
                            Text(step ?? "starting")
                        }
                        Button("Stop", role: .cancel) { work?.cancel() }
                    }
                } footer: {
                    Text("The bundle's own frames through the whole pipeline, beside what the model computed when the bundle was built.")
                }
                if let report {
                    Section(report.passed ? "Passed" : "Failed") {
                        ForEach(report.checks, id: \.name) { check in
                            let line = "\(check.name.replacing("_", with: " ")): \(check.detail)"
                            Label(line, systemImage: check.passed ? "checkmark.circle" : "xmark.octagon")
                                .foregroundStyle(check.passed ? .green : .red)
                        }
                    }
                    Section("Took") {
                        ForEach(report.stagesSeconds.sorted { $0.key < $1.key }, id: \.key) { name, value in
                            LabeledContent(name.replacing("_", with: " ")) { Text(seconds(value)).monospacedDigit() }
                        }
                    }
                }
            }
            .navigationTitle("Self-test")
            .toolbar {
                ToolbarItem(placement: .cancellationAction) {
                    Button("Close") { dismiss() }
                }
            }
            .sheet(item: $failure) { FailureView(failure: $0) }
        }
        .onDisappear { work?.cancel() }
        .onChange(of: scenePhase) { _, phase in
            if phase == .background { work?.cancel() }
        }
    }

    private func start() {
        report = nil
        let chat = conversation.chat
        work = Task {
            Awake.begin()
            let (steps, sender) = AsyncStream<String>.makeStream()
            let showing = Task { for await line in steps { step = line } }
            defer {
                sender.finish()
                showing.cancel()
                Awake.end()
                work = nil
            }
            do {
                report = try await chat.selfTest { sender.yield($0) }
            } catch is CancellationError {
            } catch {
                failure = Failure(error)
            }
        }
    }
}
