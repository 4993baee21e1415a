import MobileVideoGPTCore
import SwiftUI

/// A bundle from a web address, checked against its pin. It goes on where this screen is closed. What has
/// arrived is kept: the same address and pin go on where it stopped.
struct DownloadView: View {
    @Environment(\.dismiss) private var dismiss
    @AppStorage("download.address") private var address = ""
    @AppStorage("download.pin") private var pin = ""
    @Environment(AppModel.self) private var model

    var body: some View {
        @Bindable var download = model.download
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
                        Button("Download") { model.startDownload(address, pin) }.disabled(address.isEmpty || pin.isEmpty)
                    }
                }
            }
            .navigationTitle("Download")
            .toolbar {
                ToolbarItem(placement: .cancellationAction) {
                    Button("Close") { dismiss() }
                }
            }
            .sheet(item: $download.failure) { FailureView(failure: $0) }
            .onChange(of: download.isDone) { _, done in
                if done { dismiss() }
            }
        }
    }
}
