import MobileVideoGPTCore
import SwiftUI

/// A bundle from a web address, checked against its pin. What has arrived is kept: the same address and pin go on where it stopped.
struct DownloadView: View {
    @Environment(\.dismiss) private var dismiss
    @AppStorage("download.address") private var address = ""
    @AppStorage("download.pin") private var pin = ""
    @State private var download = DownloadModel()

    var body: some View {
        @Bindable var download = download
        NavigationStack {
            Form {
                Section("Address of the bundle's folder") {
                    TextField("https://", text: $address).keyboardType(.URL).textInputAutocapitalization(.never).autocorrectionDisabled()
                }
                Section("Pin that export.build printed") {
                    TextField("64 hex digits", text: $pin).textInputAutocapitalization(.never).autocorrectionDisabled()
                }
                if let progress = download.progress {
                    Section {
                        ProgressView(value: progress.share)
                        Text(progress.line).font(.caption).foregroundStyle(.secondary)
                    }
                }
                Section {
                    if download.isRunning {
                        Button("Stop", role: .cancel) { download.stop() }
                    } else {
                        Button("Download") { download.start(address, pin) }.disabled(address.isEmpty || pin.isEmpty)
                    }
                }
            }
            .navigationTitle("Download")
            .toolbar {
                ToolbarItem(placement: .cancellationAction) {
                    Button("Close") {
                        download.stop()
                        dismiss()
                    }
                }
            }
            .sheet(item: $download.failure) { FailureView(failure: $0) }
            .onChange(of: download.isDone) { _, done in
                if done { dismiss() }
            }
        }
    }
}

/// A download that the screen shows.
@MainActor @Observable
private final class DownloadModel {
    struct Progress {
        let share: Double
        let line: String
    }

    private(set) var progress: Progress?
    private(set) var isRunning = false
    private(set) var isDone = false
    var failure: Failure?
    private var work: Task<Void, Never>?

    func start(_ address: String, _ pin: String) {
        isRunning = true
        work = Task {
            let (steps, sender) = AsyncStream<DownloadProgress>.makeStream(bufferingPolicy: .bufferingNewest(1))
            let showing = Task { for await step in steps { show(step) } }
            defer {
                sender.finish()
                showing.cancel()
                isRunning = false
            }
            do {
                let library = try BundleLibrary.standard()
                _ = try await library.downloads.download(from: address, pin: pin, availableBytes: library.freeBytes) { sender.yield($0) }
                isDone = true
            } catch is CancellationError {
            } catch {
                failure = Failure(error)
            }
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
