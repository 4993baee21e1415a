import MobileVideoGPTCore
import SwiftUI

/// One video, its questions and answers.
struct ConversationView: View {
    private enum Screen: String, Identifiable {
        case camera, options, panel, benchmark, selfTest
        var id: String { rawValue }
    }

    @Environment(AppModel.self) private var model
    @AppStorage("answer.temperature") private var temperature = 0.0
    @AppStorage("answer.maxNewTokens") private var maxNewTokens = 256
    @State private var screen: Screen?
    let conversation: Conversation

    var body: some View {
        @Bindable var conversation = conversation
        VStack(spacing: 0) {
            FrameStrip(pictures: conversation.frames, keyFrames: conversation.keyFrames)
            TurnsView(conversation: conversation)
            questionBar
        }
        .navigationTitle(conversation.manifest.checkpointName)
        .navigationBarTitleDisplayMode(.inline)
        .toolbar { toolbar }
        .sheet(item: $screen) { screen in
            switch screen {
            case .camera: CameraPicker { conversation.watch($0) }.ignoresSafeArea()
            case .options: OptionsView(temperature: $temperature, maxNewTokens: $maxNewTokens)
            case .panel: PanelView(conversation: conversation)
            case .benchmark: BenchmarkView(conversation: conversation)
            case .selfTest: SelfTestView(conversation: conversation)
            }
        }
        .sheet(item: $conversation.failure) { FailureView(failure: $0) }
    }

    @ViewBuilder private var questionBar: some View {
        @Bindable var conversation = conversation
        HStack {
            VideoPicker { conversation.watch($0) }
            if CameraPicker.isAvailable {
                Button { screen = .camera } label: { Image(systemName: "video") }.accessibilityLabel("Record a video")
            }
            let prompt = conversation.phase == .noVideo ? "Choose a video first" : "Ask about the video"
            TextField(prompt, text: $conversation.question, axis: .vertical)
                .lineLimit(1...4)
                .textFieldStyle(.roundedBorder)
                .onSubmit(ask)
            if conversation.isBusy {
                Button { conversation.stop() } label: { Image(systemName: "stop.fill") }.accessibilityLabel("Stop")
            } else {
                Button(action: ask) { Image(systemName: "arrow.up.circle.fill") }
                    .accessibilityLabel("Ask")
                    .disabled(!conversation.canAsk || hasNoWords)
            }
        }
        .padding()
    }

    @ToolbarContentBuilder private var toolbar: some ToolbarContent {
        ToolbarItem(placement: .topBarLeading) {
            Button("Bundles") { model.close() }
        }
        ToolbarItem(placement: .topBarTrailing) {
            Menu {
                Button("New conversation") { conversation.startOver() }.disabled(!conversation.canAsk)
                Button("Times and memory") { screen = .panel }
                Button("Options") { screen = .options }
                Button("Benchmark") { screen = .benchmark }.disabled(conversation.isBusy)
                Button("Self-test") { screen = .selfTest }.disabled(conversation.isBusy)
            } label: {
                Image(systemName: "ellipsis.circle").accessibilityLabel("More")
            }
        }
    }

    private var hasNoWords: Bool { conversation.question.trimmingCharacters(in: .whitespacesAndNewlines).isEmpty }

    private func ask() {
        conversation.ask(AnswerOptions(temperature: temperature, topP: temperature > 0 ? 0.9 : 1, maxNewTokens: maxNewTokens))
    }
}

/// How answers are chosen.
private struct OptionsView: View {
    @Binding var temperature: Double
    @Binding var maxNewTokens: Int

    var body: some View {
        Form {
            Section("Temperature: 0 takes the best token always") {
                Slider(value: $temperature, in: 0...1.5, step: 0.1)
                Text(temperature.formatted(.number.precision(.fractionLength(1))))
            }
            Section("Answer") {
                Stepper("At most \(maxNewTokens) tokens", value: $maxNewTokens, in: 16...Session.maxNewTokens, step: 16)
            }
        }
        .presentationDetents([.medium])
    }
}
