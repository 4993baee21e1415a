import MobileVideoGPTCore
import SwiftUI

/// The bundles on the device, and the ways to get one there.
struct BundlesView: View {
    @Environment(AppModel.self) private var model
    @State private var downloads = false

    var body: some View {
        @Bindable var model = model
        List {
            Section("Bundles") {
                ForEach(model.bundles) { bundle in
                    Button { model.open(bundle) } label: { BundleRow(bundle: bundle) }
                        .swipeActions {
                            Button("Delete", role: .destructive) { Task { await model.delete(bundle) } }
                        }
                }
                if model.bundles.isEmpty {
                    Text(
                        """
                        None yet. Copy one into Mobile-VideoGPT/bundles with the Files app, push one with `python -m export.push BUNDLE`, \
                        or download one.
                        """
                    )
                        .font(.callout)
                        .foregroundStyle(.secondary)
                }
            }
            if !model.unfinished.isEmpty {
                Section("Unfinished downloads") {
                    ForEach(model.unfinished, id: \.self) { pin in
                        Text("Pin \(shortened(pin))")
                            .swipeActions {
                                Button("Delete", role: .destructive) { Task { await model.removeUnfinished(pin) } }
                                    .disabled(model.download.isRunning)
                            }
                    }
                }
            }
            Section("Runs on") {
                Picker("Units", selection: $model.units) {
                    ForEach(ComputeUnits.allCases) { Text($0.title).tag($0) }
                }
            }
            Section {
                Button(model.download.isRunning ? "Downloading a bundle" : "Download a bundle") { downloads = true }
            }
        }
        .navigationTitle("Mobile-VideoGPT")
        .task { await model.refresh() }
        .refreshable { await model.refresh() }
        .sheet(isPresented: $downloads, onDismiss: { Task { await model.refresh() } }) { DownloadView() }
    }
}

/// One bundle: what it is and what it takes, or why it cannot be read.
private struct BundleRow: View {
    let bundle: BundleSummary

    var body: some View {
        VStack(alignment: .leading, spacing: 4) {
            Text(bundle.title).font(.headline)
            switch bundle.manifest {
            case .success(let manifest):
                Text(sizes(manifest)).font(.caption).foregroundStyle(.secondary)
                if !manifest.verified {
                    warning("built with --no-verify: nothing shows that it computes what the model computes")
                }
            case .failure(let error):
                warning(error.message)
            }
        }
    }

    private func sizes(_ manifest: Manifest) -> String {
        let (disk, memory) = (byteCount(manifest.bundleBytes), byteCount(manifest.expectedMemoryBytes))
        return "\(disk) on disk, \(memory) in memory, built \(manifest.created)"
    }

    private func warning(_ line: String) -> some View {
        Label(line, systemImage: "exclamationmark.triangle").font(.caption).foregroundStyle(.orange)
    }
}

/// Bytes as people read them.
func byteCount(_ bytes: Int) -> String { Int64(bytes).formatted(.byteCount(style: .file)) }
