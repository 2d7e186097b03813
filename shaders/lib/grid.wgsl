// A dispatch may have at most 65 535 workgroups a side, so the host folds a one-dimensional grid into rows of
// GRID_WIDTH workgroups; those past the end of the last row find an index that is out of range and leave.
const GRID_WIDTH: u32 = 32768u;

fn workgroup_index(id: vec3<u32>) -> u32 {
    return id.y * GRID_WIDTH + id.x;
}
