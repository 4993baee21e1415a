import Foundation

/// The choice of the next token from the decoder's logits [V].
public protocol TokenSampler {
    func callAsFunction(_ logits: [Float]) throws -> Int
}

/// Greedy as in the release, or nucleus sampling. Logits that are not finite are an error.
public final class Sampler: TokenSampler {
    private let temperature: Double
    private let topP: Double
    private var generator: any RandomNumberGenerator

    /// Takes the best token, the lowest id of equals.
    public init() {
        (temperature, topP) = (0, 1)
        generator = SystemRandomNumberGenerator()
    }

    /// - Parameters:
    ///   - temperature: 0 takes the best token; above 0, one is drawn from softmax(logits / temperature).
    ///   - topP: draw only among the most probable tokens, the fewest whose probabilities sum to at least this (the best is always one).
    ///   - seed: makes the draws repeatable.
    /// Throws `optionOutOfRange`.
    public init(temperature: Double, topP: Double = 1, seed: UInt64? = nil) throws {
        guard temperature.isFinite, temperature >= 0 else {
            throw VideoGPTError.optionOutOfRange(
                "the temperature is \(temperature): give a number from 0 (always the best token) up, 0.7 for example")
        }
        guard topP > 0, topP <= 1 else {
            throw VideoGPTError.optionOutOfRange("top-p is \(topP): give a number above 0 and up to 1 (1 keeps all tokens)")
        }
        self.temperature = temperature
        self.topP = topP
        generator = seed.map { SplitMix64(state: $0) } ?? SystemRandomNumberGenerator()
    }

    public func callAsFunction(_ logits: [Float]) throws -> Int {
        let best = try bestOf(logits)
        guard temperature > 0 else { return best }
        let probabilities = probabilities(logits, best: logits[best])
        var mass = Double.random(in: 0..<probabilities.reduce(0, +), using: &generator)
        for (token, probability) in probabilities.enumerated() where probability > 0 {
            mass -= probability
            if mass < 0 { return token }
        }
        return best  // the sums were rounded differently
    }

    /// What a token is drawn with above temperature 0: [V], 0 for what is cut off, the kept ones summing to 1.
    public func probabilities(_ logits: [Float]) throws -> [Double] {
        let kept = probabilities(logits, best: logits[try bestOf(logits)])
        let mass = kept.reduce(0, +)
        return kept.map { $0 / mass }
    }

    /// The first of the best.
    private func bestOf(_ logits: [Float]) throws -> Int {
        guard var best = logits.indices.first else { throw VideoGPTError.logitsNotFinite }
        var finite = true
        logits.withUnsafeBufferPointer { values in
            for i in values.indices {
                finite = finite && values[i].isFinite
                if values[i] > values[best] { best = i }
            }
        }
        guard finite else { throw VideoGPTError.logitsNotFinite }
        return best
    }

    /// Softmax in float32, as `runtime_py/sampling.py` rounds it, without the tail: [V] -> [V].
    private func probabilities(_ logits: [Float], best: Float) -> [Double] {
        // From the best logit down and in double: a tiny temperature must neither overflow the quotient nor round to 0 itself.
        let exponentials = logits.map { Float(exp(Double(Float(Double($0 - best) / temperature)))) }
        let mass = Float(exponentials.reduce(0) { $0 + Double($1) })
        let probabilities = exponentials.map { Double($0 / mass) }
        guard topP < 1 else { return probabilities }
        let ranked = probabilities.indices.sorted { (probabilities[$0], $1) > (probabilities[$1], $0) }  // equals by id
        var kept = Array(repeating: 0.0, count: probabilities.count)
        var massBefore = 0.0
        for token in ranked {
            guard massBefore < topP else { break }
            kept[token] = probabilities[token]
            massBefore += probabilities[token]
        }
        return kept
    }
}

/// Sebastiano Vigna's SplitMix64: small, and the same on every system.
struct SplitMix64: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
