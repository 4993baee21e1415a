import MobileVideoGPTCore
import SwiftUI

/// What the last answer took, and what the device says now.
struct PanelView: View {
    let conversation: Conversation
    @State private var device = DeviceNow()

    private struct DeviceNow {
        let footprint = Device.footprint
        let peak = Device.peakFootprint
        let available = Device.availableBytes
        let thermalState = Device.thermalState
    }

    var body: some View {
        List {
            if !conversation.firstTokenStages.isEmpty {
                Section("First token") {
                    ForEach(conversation.firstTokenStages, id: \.name) { row($0.name.replacing("_", with: " "), seconds($0.seconds)) }
                    row("in all", seconds(conversation.firstTokenStages.reduce(0) { $0 + $1.seconds }))
                }
            }
            if let report = conversation.turns.last?.report {
                Section("Last answer") {
                    row("tokens", "\(report.tokens)")
                    if let rate = report.tokensPerSecond { row("tokens a second", rate.formatted(.number.precision(.fractionLength(1)))) }
                    row("context", "\(report.position) of \(report.maxContext) tokens")
                }
            }
            Section("Device") {
                row("memory of this app", byteCount(device.footprint))
                row("at most so far", byteCount(device.peak))
                row("left before iOS ends it", byteCount(device.available))
                row("thermal state", device.thermalState)
            }
        }
        .task {
            while !Task.isCancelled {
                device = DeviceNow()
                try? await Task.sleep(for: .seconds(1))
            }
        }
    }

    private func row(_ name: String, _ value: String) -> some View {
        LabeledContent(name) { Text(value).monospacedDigit() }
    }
}
