// What is moved at a time: a quad.

alias Unit = vec4<f32>;

fn sum_of(unit: Unit) -> vec4<f32> {
    return unit;
}

