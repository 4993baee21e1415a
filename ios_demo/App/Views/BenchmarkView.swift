import Foundation
import MobileVideoGPTCore
import SwiftUI

/// Times the bundle as `python -m runtime_py.bench` does, and shares the same JSON.
struct BenchmarkView: View {
    @Environment(\.dismiss) private var dismiss
    @Environment(\.scenePhase) private var scenePhase
    @State private var lines: [String] = []
    @State private var report: BenchReport?
    @State private var file: URL?
    @State private var failure: Failure?
    @State private var work: Task<Void, Never>?
    @State private var runs = 3
    @State private var newTokens = 32
    let conversation: Conversation

    var body: some View {
        NavigationStack {
            List {
                Section {
                    Stepper("\(runs) timed runs", value: $runs, in: 1...20)
                    Stepper("\(newTokens) new tokens", value: $newTokens, in: 1...512)
                    if work == nil {
                        Button("Run") { start() }
                    } else {
                        Button("Stop", role: .cancel) { work?.cancel() }
                    }
                } footer: {
                    Text("Leave the phone on a table and unplugged: heat and charging slow it down.")
                }
                if !lines.isEmpty {
                    Section("Progress") { ForEach(lines, id: \.self) { Text($0).font(.caption) } }
                }
                if let report { ReportSection(report: report, file: file) }
            }
            .navigationTitle("Benchmark")
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
        (lines, report, file) = ([], nil, nil)
        let options = BenchOptions(newTokens: newTokens, runs: runs, source: conversation.chat.bundle.folder.path)
        let chat = conversation.chat
        work = Task {
            Awake.begin()
            let (steps, sender) = AsyncStream<String>.makeStream()
            let showing = Task { for await line in steps { lines.append(line) } }
            defer {
                sender.finish()
                showing.cancel()
                Awake.end()
                work = nil
            }
            do {
                let found = try await chat.bench(options, meter: Meter()) { sender.yield($0) }
                report = found
                file = try await BenchFile.write(found.json)
            } catch is CancellationError {
            } catch {
                failure = Failure(error)
            }
        }
    }
}

private struct ReportSection: View {
    let report: BenchReport
    let file: URL?

    var body: some View {
        Section("First token") {
            ForEach(report.stages, id: \.name) { row($0.name.replacing("_", with: " "), seconds($0.seconds)) }
            row("in all", seconds(report.ttftSeconds))
            row("another question", seconds(report.againTTFTSeconds))
        }
        Section("Speed and memory") {
            row("prefill, tokens a second", number(report.prefillTokensPerSecond))
            row("decode, tokens a second", number(report.decodeTokensPerSecond))
            row("most memory", byteCount(report.peakBytes))
            row("thermal state", "\(report.thermalStateBefore) to \(report.thermalStateAfter)")
        }
        Section {
            if let file { ShareLink(item: file) { Label("Share the JSON", systemImage: "square.and.arrow.up") } }
        }
    }

    private func number(_ value: Double) -> String { value.formatted(.number.precision(.fractionLength(1))) }

    private func row(_ name: String, _ value: String) -> some View {
        LabeledContent(name) { Text(value).monospacedDigit() }
    }
}
