import XCTest

@testable import MobileVideoGPTCore

/// The next token: greedy, or drawn from exactly the distribution that the options say.
final class SamplerTests: XCTestCase {
    private let logits: [Float] = [2, 0, 1, -1, 1.5]

    private func counts(_ sampler: Sampler, _ logits: [Float], _ draws: Int) throws -> [Int] {
        var counts = Array(repeating: 0, count: logits.count)
        for _ in 0..<draws { counts[try sampler(logits)] += 1 }
        return counts
    }

    func testGreedyTakesTheBestAndTheLowestOfEquals() throws {
        XCTAssertEqual(try Sampler()(logits), 0)
        XCTAssertEqual(try Sampler()([1, 3, 3, 3]), 1)
        var wide = [Float](repeating: 0, count: 151_936)
        for id in [70_001, 70_000, 151_935] { wide[id] = 1 }
        XCTAssertEqual(try Sampler()(wide), 70_000)
    }

    func testDrawsFollowTheSoftmax() throws {
        for temperature in [0.5, 1, 2] {
            let weights = logits.map { exp(Double($0) / temperature) }
            let expected = weights.map { $0 / weights.reduce(0, +) * 20_000 }
            let found = try counts(Sampler(temperature: temperature, seed: 1), logits, 20_000)
            let chiSquare = zip(found, expected).reduce(0) { $0 + pow(Double($1.0) - $1.1, 2) / $1.1 }
            XCTAssertLessThan(chiSquare, 18.5)  // 4 degrees of freedom: exceeded once in a thousand seeds
        }
    }

    func testTopPKeepsTheSmallestSetThatReachesIt() throws {
        let probabilities: [Double] = [0.25, 0.0625, 0.5, 0.0625, 0.125]  // powers of two: their sums are exact
        let cases: [(topP: Double, count: Int)] = [
            (0.05, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (0.875, 3), (0.9, 4), (1, 5),
        ]
        for one in cases {
            let kept = Set([2, 0, 4, 1, 3].prefix(one.count))  // by probability, equals by id
            let sampler = try Sampler(temperature: 1, topP: one.topP, seed: 3)
            let logits = probabilities.map { Float(log($0)) }
            let mass = kept.reduce(0) { $0 + probabilities[$1] }
            for (id, probability) in try sampler.probabilities(logits).enumerated() {
                XCTAssertEqual(probability, kept.contains(id) ? probabilities[id] / mass : 0, accuracy: 1e-6, "\(one.topP)")
            }
            let drawn = try counts(sampler, logits, 2000)
            XCTAssertEqual(Set(drawn.indices.filter { drawn[$0] > 0 }), kept, "\(one.topP)")
            for id in kept { XCTAssertEqual(Double(drawn[id]) / 2000, probabilities[id] / mass, accuracy: 0.04) }  // 3.5 deviations at most
        }
    }

    func testASeedRepeatsTheDraws() throws {
        let draws = try [UInt64(11), 11, 12].map { seed in
            let sampler = try Sampler(temperature: 1, seed: seed)
            return try (0..<50).map { _ in try sampler(logits) }
        }
        XCTAssertEqual(draws[0], draws[1])
        XCTAssertNotEqual(draws[0], draws[2])
        let unseeded = try (0..<2).map { _ in try Sampler(temperature: 1) }.map { sampler in try (0..<50).map { _ in try sampler(logits) } }
        XCTAssertNotEqual(unseeded[0], unseeded[1])
    }

    func testATinyTemperatureIsGreedy() throws {
        for temperature in [1e-300, 1e-45, 1e-6] {
            let sampler = try Sampler(temperature: temperature, topP: 0.9, seed: 0)
            XCTAssertEqual(try counts(sampler, logits.map { $0 * 1e4 }, 20), [20, 0, 0, 0, 0])
        }
    }

    func testLogitsThatAreNotFiniteAreTheBundlesFault() throws {
        for value in [Float.nan, .infinity, -.infinity] {
            for temperature in [0.0, 1.0] {
                assertThrows(.logitsNotFinite, try Sampler(temperature: temperature)([0, value, 1]))
            }
        }
        assertThrows(.logitsNotFinite, try Sampler()([]))
    }

    func testOptionsOutOfRangeAreExplained() {
        for (temperature, topP) in [(-0.1, 1.0), (.nan, 1), (.infinity, 1), (1, 0), (1, 1.1), (1, .nan)] {
            XCTAssertThrowsError(try Sampler(temperature: temperature, topP: topP)) { XCTAssertTrue("\($0)".contains("give a number")) }
        }
    }
}
