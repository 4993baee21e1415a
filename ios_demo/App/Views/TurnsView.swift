import MobileVideoGPTCore
import SwiftUI

/// Questions and answers, the newest in sight while it grows.
struct TurnsView: View {
    let conversation: Conversation

    var body: some View {
        ScrollViewReader { scroll in
            ScrollView {
                LazyVStack(alignment: .leading, spacing: 12) {
                    ForEach(conversation.watched?.warnings ?? [], id: \.self) {
                        Label($0, systemImage: "exclamationmark.triangle").font(.caption).foregroundStyle(.orange)
                    }
                    if conversation.forgotten > 0 {
                        Text("The context was full: the first \(conversation.forgotten) questions are forgotten, the video is not.")
                            .font(.caption)
                            .foregroundStyle(.secondary)
                    }
                    ForEach(conversation.turns) { TurnView(turn: $0).id($0.id) }
                    if let notice = conversation.notice {
                        Text(notice).font(.caption).foregroundStyle(.secondary)
                    }
                    if conversation.phase == .watching {
                        ProgressView("Watching")
                    }
                }
                .padding()
            }
            .onChange(of: conversation.turns.last?.answer) { _, _ in
                if let last = conversation.turns.last { scroll.scrollTo(last.id, anchor: .bottom) }
            }
        }
    }
}

private struct TurnView: View {
    let turn: Conversation.Turn

    var body: some View {
        VStack(alignment: .leading, spacing: 6) {
            Text(turn.question).font(.headline)
            if turn.answer.isEmpty && turn.report == nil {
                ProgressView()
            } else {
                Text(turn.answer).textSelection(.enabled)
            }
            if let report = turn.report {
                Text(line(report)).font(.caption).foregroundStyle(.secondary)
            }
        }
    }

    private func line(_ report: AnswerReport) -> String {
        var parts = ["\(report.tokens) tokens"]
        if let first = report.firstTokenSeconds { parts.append("first after \(seconds(first))") }
        if let rate = report.tokensPerSecond { parts.append("then \(rate.formatted(.number.precision(.fractionLength(1)))) a second") }
        switch report.ending {
        case .complete: break
        case .stopped: parts.append("stopped")
        case .limit: parts.append("at its limit")
        case .contextFull: parts.append("the context is full: start a new conversation")
        }
        return parts.joined(separator: ", ")
    }
}

/// Seconds for a reader.
func seconds(_ value: Double) -> String { "\(value.formatted(.number.precision(.fractionLength(value < 1 ? 3 : 2)))) s" }
